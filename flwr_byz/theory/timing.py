"""The time that a training takes: in rounds that wait for all clients, and in steps that do not.

When a step is made, and of which replies, is simulated. How far it leads follows from a model of
the error x in two directions, the flattest and the steepest. A round without noise multiplies it by
1 − u, where u is 1 − (1 − ηL)^E and 1 − (1 − ηM)^E for E local steps. A reply to the model of s
steps ago is ux, and a scatter of length (1 − (1 − ηL)^E)·√(dm/N)·√(σ² + growth²·‖x‖²)/L at right
angles to that of the others, both times (1 + s)^(−a). The mean of a batch's replies is a row, and
the step is the geometric median of the rows.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from math import inf, nan, sqrt
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..aggregation.batches import default_quorum, split_into_batches
from ..checks import check_number, wrong_kind, wrong_value
from ..json_lines import plain
from .constants import LINEAR_REGRESSION, Statistics
from .course import Clients, Step
from .plans import Plan

_LEAST_FACTOR = 0.01  # of a round: one of 0 would leave nothing for the next to shrink
_LOST = 1e6  # times the error at the start
_PATIENCE = 100  # steps for each round, and for each step in which a model still counts
_ITERATIONS, _PRECISION = 100, 1e-6  # of a median
_ROUNDING = 1e-6  # of the target

_Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TimeToTarget:
    """The seconds until a training is as near to θ* as the rounds of a `Plan` bring it.

    Attributes
    ----------
    rounds, seconds_per_round, synchronous_seconds : int or None, float, float
        Of `GeometricMedianOfMeans`, whose rounds wait for all clients. None, and infinity, where no
        time is enough.
    steps, seconds_per_step, asynchronous_seconds : int or None, float, float
        Of `AsyncGeometricMedianOfMeans`, whose steps wait for a quorum.
    quorum : int
        How many batches a step waits for.
    mean_age, fresh_share : float
        How many steps old the models are that the rows of a step come from, on average; and the
        share of the k batches that hold a new reply in a step.
    num_too_old : int
        Clients of which no reply counts, as each one is older than `max_staleness`.
    hints : tuple of str
        Why a time is long or infinite, and what would help.
    """

    rounds: int | None
    seconds_per_round: float
    synchronous_seconds: float
    steps: int | None
    seconds_per_step: float
    asynchronous_seconds: float
    quorum: int
    mean_age: float
    fresh_share: float
    num_too_old: int
    hints: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all fields in a form that JSON can hold, with null for infinite numbers."""
        made: dict[str, Any] = plain(asdict(self))
        return made


def time_to_target(
    plan: Plan,
    latencies: Sequence[float],
    *,
    quorum: int | None = None,
    timeout: float | None = None,
    max_staleness: int = 100,
    staleness_exponent: float = 0.5,
    keep_steps: int = 100,
    statistics: Statistics = LINEAR_REGRESSION,
) -> TimeToTarget:
    """Estimate how long a training takes in either mode, from how long its clients take.

    In both it ends when the error has shrunk by the factor of `plan.rounds` rounds without noise.

    Parameters
    ----------
    plan : Plan
    latencies : sequence of m float
        The seconds that each client takes for a reply, and for sending it; infinity for one that
        never replies. Neighbours share a batch, as in `aggregation.split_into_batches`.
    quorum : int, optional
        How many batches a step waits for, from 2q + 1 to k; by default 2q + 1, or more than half of
        them if that is more.
    timeout : float, optional
        Seconds after which a client is given up; a round ends then.
    max_staleness, staleness_exponent, keep_steps : int, float, int
        As of `AsyncGeometricMedianOfMeans`.
    statistics : Statistics, optional
        Those that the plan was made with.

    Raises TypeError where an argument is of a wrong kind, ValueError where one is out of range.

    Notes
    -----
    The seconds of a round and of a step are exact, but for the server's own time; the number of
    steps is not proved. The factor of a round is the clean one: an attack slows down both modes,
    and the rounds of a plan allow for that.

    Not modelled are latencies that vary, for which rounds take longer; clients whose data differ,
    of which the fast ones weigh more; norms that are trimmed; and Byzantine clients that reply
    when it suits them: those that never do make each round last until its timeout. The error that
    remains is that of the plan, and a little higher where replies are left out.
    """
    m, q, k = plan.num_clients, plan.num_byzantine, plan.num_batches
    if len(latencies) != m:
        raise ValueError(f"latencies are of {len(latencies)} clients, the plan is for {m}")
    for each in latencies:
        _check_latency(each)
    if quorum is not None:
        check_number("quorum", quorum, whole=True, least=2 * q + 1, most=k)
    if timeout is not None:
        check_number("timeout", timeout, above=0)
    note = ": give the statistics that the plan was made with"
    check_number("step_size", plan.step_size, above=0, below=2 / statistics.M, note=note)
    check_number("max_staleness", max_staleness, whole=True, least=0)
    check_number("staleness_exponent", staleness_exponent, least=0)
    check_number("keep_steps", keep_steps, whole=True, least=0)

    limit = inf if timeout is None else float(timeout)
    batches = split_into_batches(range(m), k)
    batch_of = [number for number, batch in enumerate(batches) for _ in batch]
    clients = Clients(
        seconds=[float(each) if each <= limit else inf for each in latencies],
        timeout=limit,
        batch_of=batch_of,
        quorum=quorum or default_quorum(k, q),
        max_staleness=max_staleness,
    )
    per_round = min(max(map(float, latencies)), limit)
    planned = plan.rounds if clients.num_answering > 2 * q else None
    rounds = planned if per_round < inf else None

    window = max_staleness + keep_steps + 1  # steps in which a model still counts
    descent = _Descent(plan, statistics, batch_of, staleness_exponent, keep_steps)
    target, most = 0.0, window
    if planned is not None:
        target = descent.factor**planned * (1 + _ROUNDING)
        most = _PATIENCE * (planned + window)
    course, ages, steps = _followed(islice(clients.steps(), most), descent, target, window)
    until = course[:steps]
    counted = {client for step in until for client, _ in step.replies}
    made = TimeToTarget(
        rounds=rounds,
        seconds_per_round=per_round,
        synchronous_seconds=inf if rounds is None else rounds * per_round,
        steps=steps,
        seconds_per_step=until[-1].seconds / len(until) if until else inf,
        asynchronous_seconds=inf if steps is None else until[-1].seconds,
        quorum=clients.quorum,
        mean_age=float(np.mean(ages[:steps])) if until else nan,
        fresh_share=float(np.mean([step.num_filled for step in until])) / k if until else nan,
        num_too_old=len({client for step in until for client in step.too_old} - counted),
    )
    return replace(made, hints=_hints(made, plan, clients))


def _check_latency(value: Any) -> None:
    """Check that a value is a positive number, or infinity."""
    needed = "positive numbers of seconds, infinity for a client that never replies"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise wrong_kind("latencies", needed, value)
    if not float(value) > 0:
        raise wrong_value("latencies", needed, value)


@dataclass(frozen=True)
class _Row:
    """The mean of a batch's replies: its part in each direction, and the length of its scatter."""

    step: int
    age: float  # in that step, of the models
    point: _Values
    scatter: float


class _Descent:
    """The error along a course of steps, beside that at the start."""

    def __init__(
        self,
        plan: Plan,
        statistics: Statistics,
        batch_of: Sequence[int],
        staleness_exponent: float,
        keep_steps: int,
    ) -> None:
        curvatures = np.unique([statistics.L, statistics.M])
        self._lengths = 1 - (1 - plan.step_size * curvatures) ** (plan.local_steps or 1)
        of_reply = plan.error_rate * sqrt(plan.num_clients / plan.num_batches)  # √(dm/N)
        unit = self._lengths[0] * of_reply / statistics.L
        self._scatter = unit * statistics.sigma / plan.distance
        self._growth = unit * statistics.growth
        self._batch_of, self._exponent, self._keep_steps = batch_of, staleness_exponent, keep_steps
        self._least_rows = 2 * plan.num_byzantine + 1
        self._errors = [np.ones(len(curvatures))]  # of the models
        self._rows: dict[int, _Row] = {}

    @property
    def factor(self) -> float:
        """The factor of a round without noise, of up-to-date replies of all."""
        return max(float(np.abs(1 - self._lengths).max()), _LEAST_FACTOR)

    @property
    def error(self) -> float:
        """The error of the newest model."""
        return float(np.abs(self._errors[-1]).max())

    def go_on(self, made: Step) -> float:
        """Make a step; return how old the models are that its rows come from, on average."""
        step = len(self._errors)
        members = defaultdict[int, list[int]](list)
        for client, age in made.replies:
            members[self._batch_of[client]].append(age)
        self._rows |= {batch: self._row(step, ages) for batch, ages in members.items()}
        rows = [row for row in self._rows.values() if row.step >= step - self._keep_steps]
        error = self._errors[-1]
        if made.replies and len(rows) >= self._least_rows:
            points, scatter = np.array([row.point for row in rows]), [row.scatter for row in rows]
            error = error - _median(points, np.array(scatter))
        self._errors.append(error)
        return float(np.mean([step - row.step + row.age for row in rows])) if rows else 0.0

    def _row(self, step: int, ages: Sequence[int]) -> _Row:
        """Return the mean of replies that come in a step."""
        scales = (1.0 + np.array(ages)) ** -self._exponent
        errors = np.array([self._errors[step - 1 - age] for age in ages])
        point = (scales[:, None] * self._lengths * errors).mean(axis=0)
        scatters = scales * np.hypot(self._scatter, self._growth * np.abs(errors).max(axis=1))
        return _Row(step, float(np.mean(ages)), point, float(np.linalg.norm(scatters)) / len(ages))


def _followed(
    made: Iterable[Step], descent: _Descent, target: float, window: int
) -> tuple[list[Step], list[float], int | None]:
    """Go on until the error has been at most the target for so many steps after the first.

    Returns the steps, the ages of their rows, and how many steps lead to the target, if any do.
    """
    course, ages, num_below = list[Step](), list[float](), 0
    for step in made:
        course.append(step)
        ages.append(descent.go_on(step))
        num_below = num_below + 1 if descent.error <= target else 0
        if num_below > window:
            return course, ages, len(course) - window
        if descent.error > _LOST:
            break
    return course, ages, None


def _median(points: _Values, scatter: _Values) -> _Values:
    """Return the geometric median of points (n, 1 or 2), each off by so much in its own direction.

    It is the fixed point of Weiszfeld's iteration, without its part in those directions.
    """
    median: _Values = points.mean(axis=0)
    for _ in range(_ITERATIONS):
        weights = 1 / np.hypot(np.linalg.norm(points - median, axis=1), scatter)
        before, median = median, weights @ points / weights.sum()
        if np.abs(median - before).max() <= _PRECISION * np.abs(points).max():
            break
    return median


def _hints(made: TimeToTarget, plan: Plan, clients: Clients) -> tuple[str, ...]:
    """Return why times are long or infinite, and what would help."""
    least, answering = 2 * plan.num_byzantine + 1, clients.num_answering
    if answering < least:
        return (f"only {answering} batches ever hold a reply, 2q + 1 = {least} are needed",)
    found = []
    if made.seconds_per_round == inf:
        num_silent = clients.seconds.count(inf)
        found.append(f"without a timeout, rounds wait forever for {num_silent} of the clients")
    fewer = "a larger quorum or a smaller step η would help"
    if made.seconds_per_step == inf:
        found.append(
            f"steps wait for {made.quorum} batches, and of only {answering} half ever reply"
        )
    elif plan.rounds is not None and made.steps is None:
        found.append(f"steps do not converge, with rows {made.mean_age:.2g} steps old: {fewer}")
    elif made.synchronous_seconds < made.asynchronous_seconds:
        found.append(f"steps take longer, with rows {made.mean_age:.2g} steps old: {fewer}")
    if made.num_too_old:
        found.append(f"{made.num_too_old} of the clients reply too late for max_staleness")
    return tuple(found)
