"""Clients' metrics, aggregated so that no client can poison or crash them."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import MetricRecordValues
from numpy.typing import ArrayLike, NDArray

from .aggregation import mean, split_into_batches
from .payload import MalformedReply, read_number


def agreed_metrics(
    claims: Sequence[Mapping[str, object]],
) -> list[dict[str, MetricRecordValues] | None]:
    """Keep of each client's metrics what more than half of the clients report.

    A metric is agreed on where more than half report it as finite numbers of the same form: one
    number, or a list of the same length.

    Parameters
    ----------
    claims : sequence of mappings
        What each client reports, unchecked: any names, any values.

    Returns
    -------
    list of dict or None
        For each client its agreed metrics, all of them; None for a client that lacks one.
    """
    checked = [_well_formed(claim) for claim in claims]
    forms = Counter((name, _form(value)) for metrics in checked for name, value in metrics.items())
    agreed = {name: form for (name, form), count in forms.items() if 2 * count > len(claims)}
    return [
        {name: metrics[name] for name in sorted(agreed)}
        if all(name in metrics and _form(metrics[name]) == agreed[name] for name in agreed)
        else None
        for metrics in checked
    ]


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
    return np.asarray(np.median([mean(batch) for batch in batches], axis=0))


def aggregate_metrics(
    metrics: Sequence[Mapping[str, MetricRecordValues]], num_batches: int
) -> dict[str, MetricRecordValues]:
    """Aggregate clients' metrics of the same names and forms, each by `median_of_means`.

    Parameters
    ----------
    metrics : sequence of mappings
        In client order, as `agreed_metrics` leaves them.
    num_batches : int
        k.
    """
    names = metrics[0] if metrics else {}
    return {
        name: median_of_means([claim[name] for claim in metrics], num_batches).tolist()
        for name in names
    }


def _form(value: MetricRecordValues) -> int:
    return len(value) if isinstance(value, list) else -1


def _well_formed(claim: Mapping[str, object]) -> dict[str, MetricRecordValues]:
    metrics: dict[str, MetricRecordValues] = {}
    for name, value in claim.items():
        try:
            if isinstance(value, list):
                metrics[name] = [read_number(entry, "an entry") for entry in value]
            else:
                metrics[name] = read_number(value, "the metric")
        except MalformedReply:
            continue
    return metrics
