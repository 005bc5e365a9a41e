"""Samples as Prometheus reads them: the text format, or OpenMetrics when the scraper asks for that."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from rlog.observe.metrics import METRICS, HistogramState, Metric, Sample


class _Samples(Collector):
    """Every declared metric, also one without a sample: its help tells that it exists."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        families = {metric.name: _family(metric) for metric in METRICS}
        for sample in self._samples:
            _add(families[sample.metric.name], sample)
        yield from families.values()


def _family(metric: Metric) -> Family:
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    if metric.kind == "histogram":
        return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    if metric.kind == "info":
        return InfoMetricFamily(metric.name.removesuffix("_info"), metric.help)
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)


def _add(family: Family, sample: Sample) -> None:
    value = sample.value
    if isinstance(family, HistogramMetricFamily):
        assert isinstance(value, HistogramState), sample
        bounds = [*map(str, sample.metric.buckets), "+Inf"]
        buckets = list(zip(bounds, accumulate(value.counts), strict=True))
        family.add_metric(sample.labels, buckets, value.sum)
    elif isinstance(family, InfoMetricFamily):
        family.add_metric((), dict(zip(sample.metric.labels, sample.labels, strict=True)))
    elif isinstance(family, CounterMetricFamily | GaugeMetricFamily):
        assert not isinstance(value, HistogramState), sample
        family.add_metric(sample.labels, value)


def render(samples: Sequence[Sample], accept: str) -> tuple[bytes, str]:
    """(body, content type) for what the scraper says that it accepts. Blocking: a few us per sample."""
    registry = CollectorRegistry()
    registry.register(_Samples(samples))
    registry.register(ProcessCollector(registry=None))
    registry.register(PlatformCollector(registry=None))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
