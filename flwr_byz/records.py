"""What a round leaves in the audit trail."""

from collections.abc import Mapping

from .aggregation import GeometricMedianOfMeans
from .aggregation.rows import StoredRows, Vector
from .audit import BatchRecord, RoundRecord, Verdict
from .collect import Collected
from .identity import ClientId, identity_order
from .round import Rejections, distances_from


def record_of(
    asked: frozenset[ClientId],
    collected: Collected,
    rejections: Rejections,
    result: GeometricMedianOfMeans | None,
    distances: Mapping[ClientId, float],
) -> RoundRecord:
    """Return what every client did, and how the batches fared, in a round that keeps the model."""
    clients: dict[ClientId, Verdict] = dict.fromkeys(
        sorted(asked, key=identity_order), Verdict("silent")
    )
    clients |= rejections.verdicts
    for number, members in enumerate(collected.members):
        for client in members:
            clients[client] = Verdict("used", number, distance=distances.get(client))
    if result is None:
        return RoundRecord(True, None, [], clients)
    columns = (result.batch_weights, result.batch_norms, result.trimmed)
    batches = [
        BatchRecord(float(weight), float(norm), bool(trimmed))
        for weight, norm, trimmed in zip(*columns, strict=True)
    ]
    return RoundRecord(True, result.gap, batches, clients)


def distances_of(
    collected: Collected, centre: Vector | None, result: GeometricMedianOfMeans | None
) -> dict[ClientId, float]:
    """Return the distance of each reply from the aggregate; of its row, where it is not held."""
    if result is None:
        return {}
    if collected.vectors:
        clients = [client for members in collected.members for client in members]
        measured = distances_from(collected.vectors, centre, result.point)
        return dict(zip(clients, measured, strict=True))
    if not isinstance(collected.rows, StoredRows):
        return {}
    rows = [[row] for row in collected.rows.matrix]
    of_row = zip(collected.members, distances_from(rows, None, result.point), strict=True)
    return {client: distance for members, distance in of_row for client in members}
