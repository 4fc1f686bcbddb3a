"""What a plan says in words: where it does not know, and what would help."""

from math import ceil, floor, isfinite

from .anisotropic import effective_dimension
from .constants import Statistics
from .descent import longest_step, step_contraction
from .plans import Plan

_FEWEST, _FEW = 3, 5  # directions that carry the scatter; fewer where they are alike, and not
_ALIKE = 0.9  # such directions beside all, at least, to be alike
_SPARE, _SPARE_ALIKE = 10, 3  # batches beyond 2q, at least, where directions differ or are alike
_GROWN = 1.15  # at most
_SAMPLES = 10  # of a client for each parameter, at least, for local steps
_BETTER = 0.9
_NEAR = 1.25  # times k, at most


def doubts(made: Plan, statistics: Statistics, grown: float) -> tuple[str, ...]:
    """Return the reasons for which the expected error may be off by more than 15 %.

    `grown` is the expected error beside that for a scatter that does not grow.
    """
    directions = float(made.dim)
    if statistics.variances is not None:
        directions = effective_dimension(statistics.variances)
    found = []
    differ = directions < _ALIKE * made.dim
    if directions < (_FEW if differ else _FEWEST):
        found.append(f"gradients scatter in no more than about {directions:.2g} directions")
    spare = made.num_batches - 2 * made.num_byzantine
    if made.num_byzantine > 0 and spare < (_SPARE if differ else _SPARE_ALIKE):
        reason = " where directions differ" if differ else ""
        found.append(f"k = 2q + {spare} batches are few{reason}")
    if grown > _GROWN:
        found.append("samples are so few that the scatter of curvatures adds much to the error")
    if (made.local_steps or 1) > 1 and made.fewest_samples < _SAMPLES * made.dim:
        found.append(f"a client of {made.fewest_samples} samples overfits them in its local steps")
    return tuple(found)


def hints(made: Plan, statistics: Statistics) -> tuple[str, ...]:
    """Return what would make the plan better."""
    m, k = made.num_clients, made.num_batches
    found = []
    best = min(made.trade_off, key=lambda point: point.expected_error)
    if best.expected_error < _BETTER * made.expected_error:
        error = f"{best.expected_error:.3g} instead of {made.expected_error:.3g}"
        found.append(f"{best.num_batches} batches leave an expected error of {error}")
    near = next((n for n in range(k, floor(_NEAR * k) + 1) if m % n == 0), k)
    if near != k:
        found.append(f"{near} batches are of equal size, {k} are not")
    longest = longest_step(statistics.L, statistics.M)
    kept, least = (
        step_contraction(step, statistics.L, statistics.M) ** (made.local_steps or 1)
        for step in (made.step_size, longest)
    )
    if least < _BETTER * kept:
        found.append(
            f"a step of 2/(L + M) = {longest:.3g} leaves {least:.3g} of the way to θ* after a "
            f"round without noise, instead of {kept:.3g}"
        )
    needed = made.samples_for_guarantee
    if made.guarantee is None and needed is not None and isfinite(needed):
        clients = k * ceil(m // k * needed / made.fewest_samples)
        ways = f"{needed} samples a client, or {clients} clients in {k} batches"
        found.append(f"{ways}, give a guarantee")
    return tuple(found)
