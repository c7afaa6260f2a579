"""Families of metrics, each made in one expression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

Values = Iterable[tuple[Sequence[str], float]]
"""The values of the labels, and the number."""


def counter(name: str, meaning: str, labels: Sequence[str], values: Values) -> Metric:
    """What only grows."""
    family = CounterMetricFamily(name, meaning, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def gauge(name: str, meaning: str, labels: Sequence[str], values: Values) -> Metric:
    """What is as it is now."""
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family
