"""Prometheus series of program scheduling, beside SGLang's own under ``/metrics``.

SGLang runs prometheus_client in its multi-process mode: every process writes its values to files
in one directory and the server adds them up when it is scraped. Three things follow.
prometheus_client is imported only when a class here is constructed, because on import it looks at
the environment variable that SGLang sets during the launch. Gauges keep the most recent value, as
SGLang's do. And each series has one writer: the main process what the process table knows, the
leading rank of a replica what its scheduler knows.

Labels are bounded: the model's name, the replica, the level, a reason. Never a program's id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from autellix_sgl.core import CallScheduler, TableStatistics, by_reason

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    from autellix_sgl.runtime.wire import CallReport

Series = TypeVar("Series", "Gauge", "Counter", "Histogram")

PREFIX = "autellix_"

# A publication counts all live calls by level: a quarter of a millisecond at ten thousand of them,
# which is lost in the cost of so many steps.
STEPS_BETWEEN_PUBLICATIONS = 40
TABLE_PERIOD_S = 1.0

# Modelled seconds: from a step of a small model on a GPU to the minutes of a saturated server.
WAIT_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)

Names = Mapping[str, tuple[str, str]]
"""A record's field -> the series' name without its prefix, and what it means."""

SCHEDULER_GAUGES: Names = {
    "num_waiting": ("waiting_calls", "Calls that wait, those that were taken out included."),
    "num_held": ("held_calls", "Waiting calls whose programs have not been let in."),
    "num_running": ("running_calls", "Calls in the batch."),
}
SCHEDULER_COUNTERS: Names = {
    "preemptions": ("preemptions", "Running calls that were preempted for better ones."),
    "parked_prefills": ("parked_prefills", "Half-done prefills that were parked for better calls."),
    "retractions": ("retractions", "Running calls taken out because the KV pool was full."),
    "promotions": ("promotions", "Waiting calls moved to the best level because they starved."),
    "recomputed_tokens": ("recomputed_tokens", "Tokens prefilled when calls came back."),
    "accounting_faults": (
        "accounting_faults",
        "Calls for which the scheduler's account was wrong and was mended.",
    ),
    "passes": ("scheduling_passes", "Scheduling passes that considered preemption."),
    "pass_seconds": ("scheduling_pass_seconds", "Wall time of those passes."),
}
TABLE_GAUGES: Names = {
    "programs": ("programs", "Live programs."),
    "idle_programs": ("programs_idle", "Live programs without a call in the system."),
    "active_calls": ("active_calls", "Calls in the system, over all replicas."),
}
REPLICAS = ("replicas", "Replicas that are alive.")
TABLE_COUNTERS: Names = {
    "opened": ("programs_opened", "Programs that made their first call."),
    "ended": ("programs_ended", "Programs that were over."),
    "lapsed": ("programs_lapsed", "Programs forgotten because their lease ran out."),
    "evicted": ("programs_evicted", "Programs forgotten to make room for others."),
    "calls_completed": ("calls_completed", "Calls that finished."),
    "calls_aborted": ("calls_aborted", "Calls that left without finishing."),
    "calls_stray": ("calls_stray", "Of those, calls that nobody waited for: a fault, mended."),
}

IDENTITY_COUNTERS: Names = {
    "recognised": ("requests_identified", "Requests by the field that named their program."),
    "ignored": ("identities_ignored", "Values that could not be used as an id and were ignored."),
}

SHARES_GAUGES: Names = {
    "current": ("shares_current", "1 if the shares' file as it is now is in effect, else 0."),
}
SHARES_COUNTERS: Names = {
    "loaded": ("shares_loaded", "Versions of the shares' file that took effect."),
    "rejected": ("shares_rejected", "Versions of it that were bad and changed nothing."),
}


class PassCounts(Protocol):
    """What a scheduler has counted: a field for each of SCHEDULER_COUNTERS."""

    passes: int


class SharesFigures(Protocol):
    """What has become of the shares' file: a field for each of its series."""

    current: int
    loaded: int
    rejected: int


class SchedulerMetrics:
    """What one replica's scheduler reports. Constructed on its leading rank only."""

    def __init__(
        self, *, model: str, replica: int, levels: int, registry: CollectorRegistry | None = None
    ) -> None:
        factory = _Factory(registry, model_name=model, replica=str(replica))
        self._gauges = factory.gauges(SCHEDULER_GAUGES)
        self._totals = factory.totals(SCHEDULER_COUNTERS)
        per_level = factory.gauge("calls_per_level", "Calls that wait or run; 0 is best.", "level")
        self._per_level = [factory.bind(per_level, level=str(i)) for i in range(levels)]
        self._steps = 0
        self._published: tuple[object, ...] | None = None

    def stepped(self, calls: CallScheduler, counters: PassCounts) -> None:
        """To be called once a step; publishes now and then."""
        self._steps += 1
        if self._steps % STEPS_BETWEEN_PUBLICATIONS == 0:
            self.publish(calls, counters)

    def publish(self, calls: CallScheduler, counters: PassCounts) -> None:
        """Bring the series up to date; almost free when nothing happened since the last time."""
        state = (
            calls.clock_ms,
            calls.num_waiting,
            calls.num_held,
            calls.num_running,
            counters.passes,
        )
        if state == self._published:
            return  # an idle scheduler spins, and publishes in every turn
        self._published = state
        _publish(calls, self._gauges, {})
        _publish(counters, {}, self._totals)
        for gauge, live in zip(self._per_level, calls.calls_per_level(), strict=True):
            gauge.set(live)


class TableMetrics:
    """What the main process reports: the process table, and how long each finished call waited."""

    def __init__(self, *, model: str, registry: CollectorRegistry | None = None) -> None:
        factory = self._factory = _Factory(registry, model_name=model)
        self._gauges = self._factory.gauges(TABLE_GAUGES)
        self._totals = self._factory.totals(TABLE_COUNTERS)
        self._wait = self._factory.histogram(
            "call_wait_seconds",
            "How long a finished call waited, in modelled seconds.",
            WAIT_BUCKETS_S,
            "replica",
        )
        self._live = factory.bind(factory.gauge(*REPLICAS))
        self._by_reason = self._factory.counter(
            "call_wait_reason_seconds",
            "What finished calls waited for, in modelled seconds.",
            "replica",
            "reason",
        )
        self._by_source = {
            field: factory.counter(*name, "source") for field, name in IDENTITY_COUNTERS.items()
        }
        self._sources: dict[tuple[str, str], _Total] = {}
        self._shares: tuple[Mapping[str, Gauge], Mapping[str, _Total]] | None = None
        self._published: TableStatistics | None = None

    def observe(self, report: CallReport) -> None:
        """A call left its scheduler."""
        wait = self._factory.bind(self._wait, replica=str(report.replica))
        wait.observe(report.wait_ms / 1e3)
        for reason, ms in by_reason(report.waits):
            labels = {"replica": str(report.replica), "reason": reason.value}
            self._factory.bind(self._by_reason, **labels).inc(ms / 1e3)

    def publish(self, statistics: TableStatistics) -> None:
        """Bring the table's series up to date."""
        if statistics != self._published:
            self._published = statistics
            _publish(statistics, self._gauges, self._totals)

    def publish_replicas(self, live: int) -> None:
        """Say how many are left."""
        self._live.set(live)

    def publish_identities(self, recognised: Mapping[str, int], ignored: Mapping[str, int]) -> None:
        """Bring the counts by source up to date. Sources are rows of a table, so there are few."""
        for field, counts in (("recognised", recognised), ("ignored", ignored)):
            for source, count in counts.items():
                total = self._sources.get((field, source))
                if total is None:
                    series = self._factory.bind(self._by_source[field], source=source)
                    total = self._sources[field, source] = _Total(series)
                total.set(count)

    def publish_shares(self, file: SharesFigures) -> None:
        """Bring the series of the shares' file up to date; there are none without one."""
        if self._shares is None:
            gauges = self._factory.gauges(SHARES_GAUGES)
            self._shares = (gauges, self._factory.totals(SHARES_COUNTERS))
        _publish(file, *self._shares)


class _Total:
    """A Prometheus counter that is told totals; the library's own can only be added to."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._published = 0.0

    def set(self, total: float) -> None:
        self._counter.inc(total - self._published)
        self._published = total


def _publish(record: object, gauges: Mapping[str, Gauge], totals: Mapping[str, _Total]) -> None:
    for field, gauge in gauges.items():
        gauge.set(getattr(record, field))
    for field, total in totals.items():
        total.set(getattr(record, field))


class _Factory:
    """Makes series with our prefix that share the values of some labels."""

    def __init__(self, registry: CollectorRegistry | None, **shared: str) -> None:
        import prometheus_client  # see the module docstring

        self._client = prometheus_client
        self._registry = prometheus_client.REGISTRY if registry is None else registry
        self._shared = shared

    def gauges(self, names: Names) -> dict[str, Gauge]:
        return {field: self.bind(self.gauge(*name)) for field, name in names.items()}

    def totals(self, names: Names) -> dict[str, _Total]:
        return {field: _Total(self.bind(self.counter(*name))) for field, name in names.items()}

    def gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return self._client.Gauge(
            PREFIX + name,
            meaning,
            [*self._shared, *labels],
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return self._client.Counter(
            PREFIX + name, meaning, [*self._shared, *labels], registry=self._registry
        )

    def histogram(
        self, name: str, meaning: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        return self._client.Histogram(
            PREFIX + name,
            meaning,
            [*self._shared, *labels],
            registry=self._registry,
            buckets=buckets,
        )

    def bind(self, series: Series, **labels: str) -> Series:
        """The one of *series* with the shared labels' values and those of *labels*."""
        return series.labels(**self._shared, **labels)
