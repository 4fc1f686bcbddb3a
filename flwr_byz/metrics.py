"""Clients' metrics, aggregated so that no client can poison or crash them.

What a client reports is unchecked: a mapping of any names to any values, or something else, which
holds no metrics. A metric counts where it is finite and of the form that most clients report it in:
a number, or a list of one length. Names that begin with "byz-" are the strategies' own.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

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

    `claims` has what each client reports, in client order. At least `least` clients, enough for an
    honest majority, have to report a metric; `batches_for` returns k for their number. Names that
    are `ignored` are no metrics.

    Returns the metrics by name, sorted, and how many clients report none of them, though they or
    others reported some.
    """
    reported, counts = _of_one_form(claims, ignored)
    aggregated: Metrics = {}
    for name in sorted(name for name, count in counts.items() if count >= least):
        values = [metrics[name] for metrics in reported if name in metrics]
        value = median_of_means(values, batches_for(counts[name]))
        if np.isfinite(value).all():
            aggregated[name] = value.tolist()
    num_rejected = sum(
        bool(aggregated or (isinstance(claim, Mapping) and set(claim).difference(ignored)))
        for claim, metrics in zip(claims, reported, strict=True)
        if not aggregated.keys() & metrics.keys()
    )
    return aggregated, num_rejected


def common_metrics(claims: Sequence[object], least: int) -> list[Metrics | None]:
    """Choose, of what each client reports, metrics that a function needs of every client.

    Metrics are added by the number of clients that report them, ties by name, while at least
    `least` clients, enough for an honest majority, report all of them. A client that lacks one of
    the metrics chosen gets None.
    """
    reported, counts = _of_one_form(claims)
    chosen: set[str] = set()
    members = reported
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        left = [metrics for metrics in members if name in metrics] if count >= least else []
        if len(left) >= least:
            members = left
            chosen.add(name)
    return [
        {name: metrics[name] for name in sorted(chosen)} if chosen <= metrics.keys() else None
        for metrics in reported
    ]


def median_of_means(values: Sequence[ArrayLike], num_batches: int) -> NDArray[np.float64]:
    """Return the median of k ≤ m batch means of one metric, number by number.

    `values` are m numbers or equal-length lists, in client order; the median is of their shape.
    """
    batches = split_into_batches([np.asarray(value, np.float64) for value in values], num_batches)
    with np.errstate(all="ignore"):
        return np.asarray(np.median([mean(batch) for batch in batches], axis=0))


def _of_one_form(
    claims: Sequence[object], ignored: Collection[str | None] = ()
) -> tuple[list[Metrics], dict[str, int]]:
    """Return each client's metrics of the form that most report, and how many report each."""
    checked = [_well_formed(claim, ignored) for claim in claims]
    forms = Counter((n, np.shape(v)) for metrics in checked for n, v in metrics.items())
    # Of each name the last one stays: the most frequent form.
    usual = dict(sorted(forms, key=lambda form: (forms[form], not form[1], [-n for n in form[1]])))
    kept = [{n: v for n, v in metrics.items() if np.shape(v) == usual[n]} for metrics in checked]
    return kept, {name: forms[name, form] for name, form in usual.items()}


def _well_formed(claim: object, ignored: Collection[str | None]) -> Metrics:
    metrics: Metrics = {}
    for name, value in claim.items() if isinstance(claim, Mapping) else ():
        if not isinstance(name, str) or name.startswith("byz-") or name in ignored:
            continue
        with suppress(MalformedReply):
            if isinstance(value, list):
                metrics[name] = [read_number(entry, "an entry") for entry in value]
            else:
                metrics[name] = read_number(value, "the metric")
    return metrics
