"""Clients' metrics, aggregated so that no client can poison or crash them.

What a client reports is unchecked: a mapping of any names to any values, or something else, which
holds no metrics. A metric counts as finite numbers of one form, that which most clients report it
in: a number, or a list of the same length. Names that begin with "byz-" are the strategies' own.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from flwr.app import MetricRecordValues
from numpy.typing import ArrayLike, NDArray

from .aggregation import mean, split_into_batches
from .payload import MalformedReply, read_number

Metrics = dict[str, MetricRecordValues]


def robust_metrics(
    claims: Sequence[object],
    least: int,
    batches_for: Callable[[int], int],
    ignored: Collection[str | None] = (),
) -> tuple[Metrics, int]:
    """Aggregate each metric by itself, as `median_of_means` of the clients that report it.

    Parameters
    ----------
    claims : sequence
        What each client reports, in client order.
    least : int
        How many clients have to report a metric: enough to outvote the Byzantine ones.
    batches_for : callable
        Returns k for a number of clients.
    ignored : collection of str or None
        Names that are no metrics.

    Returns
    -------
    metrics : dict
        By name, in the order of names.
    num_rejected : int
        Clients of whose metrics none is among them, though they or others reported some.
    """
    reported = _of_one_form(claims, ignored)
    aggregated: Metrics = {}
    for name, count in sorted(_counts(reported).items()):
        if count >= least:
            values = [metrics[name] for metrics in reported if name in metrics]
            value = median_of_means(values, batches_for(count))
            if np.isfinite(value).all():
                aggregated[name] = value.tolist()
    num_rejected = sum(
        bool(aggregated or _names(claim).difference(ignored))
        for claim, metrics in zip(claims, reported, strict=True)
        if not aggregated.keys() & metrics.keys()
    )
    return aggregated, num_rejected


def common_metrics(claims: Sequence[object], least: int) -> list[Metrics | None]:
    """Choose metrics for a function that needs the same ones of every client.

    Metrics are added by the number of clients that report them, ties by name, while the clients
    that report all of them are enough.

    Parameters
    ----------
    claims : sequence
        What each client reports.
    least : int
        How many clients have to be left: enough to outvote the Byzantine ones.

    Returns
    -------
    list of dict or None
        For each client the metrics chosen; None for a client that lacks one.
    """
    reported = _of_one_form(claims)
    counts = _counts(reported)
    chosen: list[str] = []
    members = list(range(len(claims)))
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        left = [i for i in members if name in reported[i]] if counts[name] >= least else []
        if len(left) >= least:
            members = left
            chosen.append(name)
    given = {i: {name: reported[i][name] for name in sorted(chosen)} for i in members}
    return [given.get(i) for i in range(len(claims))]


def median_of_means(values: Sequence[ArrayLike], num_batches: int) -> NDArray[np.float64]:
    """Aggregate one metric as the model is: the median of k batch means, number by number.

    Parameters
    ----------
    values : sequence of m numbers or equal-length lists
        In client order.
    num_batches : int
        k, at most m.

    Returns
    -------
    ndarray, float64
        Of the shape of one value.
    """
    batches = split_into_batches([np.asarray(value, np.float64) for value in values], num_batches)
    with np.errstate(all="ignore"):
        return np.asarray(np.median([mean(batch) for batch in batches], axis=0))


def _counts(reported: Sequence[Metrics]) -> Counter[str]:
    return Counter(name for metrics in reported for name in metrics)


def _of_one_form(claims: Sequence[object], ignored: Collection[str | None] = ()) -> list[Metrics]:
    """Keep of each client's metrics those of the form that most clients report them in."""
    checked = [_well_formed(claim, ignored) for claim in claims]
    forms = Counter((name, _form(value)) for metrics in checked for name, value in metrics.items())
    by_frequency = sorted(forms, key=lambda key: (forms[key], -key[1]))
    usual = dict(by_frequency)  # of each name the last one: the most frequent form
    return [{n: v for n, v in metrics.items() if _form(v) == usual[n]} for metrics in checked]


def _names(claim: object) -> set[object]:
    return set(claim) if isinstance(claim, Mapping) else set()


def _form(value: MetricRecordValues) -> int:
    return len(value) if isinstance(value, list) else -1


def _well_formed(claim: object, ignored: Collection[str | None]) -> Metrics:
    metrics: Metrics = {}
    for name, value in claim.items() if isinstance(claim, Mapping) else ():
        if not isinstance(name, str) or name.startswith("byz-") or name in ignored:
            continue
        try:
            if isinstance(value, list):
                metrics[name] = [read_number(entry, "an entry") for entry in value]
            else:
                metrics[name] = read_number(value, "the metric")
        except MalformedReply:
            continue
    return metrics
