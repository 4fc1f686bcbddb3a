"""What a round leaves in the audit trail."""

from collections.abc import Mapping

from .aggregation import GeometricMedianOfMeans
from .aggregation.rows import StoredRows, Vector
from .audit import BatchRecord, RoundRecord, Verdict
from .collect import Collected
from .identity import ClientId, identity_order
from .round import Rejections, distances_from


def record_of(
    kept: bool,
    asked: frozenset[ClientId],
    collected: Collected,
    rejections: Rejections,
    result: GeometricMedianOfMeans | None,
    distances: Mapping[ClientId, float],
) -> RoundRecord:
    """Return what every client did, and how the batches fared."""
    clients = dict.fromkeys(sorted(asked, key=identity_order), Verdict("silent"))
    clients |= rejections.verdicts
    for number, members in enumerate(collected.members):
        for client in members:
            clients[client] = Verdict("used", number, distance=distances.get(client))
    if result is None:
        return RoundRecord(kept, None, [], clients)
    columns = (result.batch_weights.tolist(), result.batch_norms.tolist(), result.trimmed.tolist())
    batches = [BatchRecord(*column) for column in zip(*columns, strict=True)]
    return RoundRecord(kept, result.gap, batches, clients)


def distances_of(
    collected: Collected, centre: Vector | None, result: GeometricMedianOfMeans
) -> dict[ClientId, float]:
    """Return the distance of each reply from the aggregate; of its row, where it is not held."""
    vectors, groups = collected.vectors, collected.members
    if vectors:
        groups = [[client] for members in collected.members for client in members]
    else:
        assert isinstance(collected.rows, StoredRows)
        vectors, centre = [[row] for row in collected.rows.matrix], None
    measured = zip(groups, distances_from(vectors, centre, result.point), strict=True)
    return {client: distance for clients, distance in measured for client in clients}
