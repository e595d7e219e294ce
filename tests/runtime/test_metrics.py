"""The Prometheus series, read back from a registry of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from autellix_sgl.core import (
    REASONS,
    CallScheduler,
    CallStamp,
    CallStatistics,
    CostModel,
    Levels,
    ProcessTable,
    StepWork,
    policy_named,
)
from autellix_sgl.runtime.metrics import (
    SCHEDULER_COUNTERS,
    STEPS_BETWEEN_PUBLICATIONS,
    SchedulerMetrics,
    TableMetrics,
)
from autellix_sgl.runtime.scheduler.counters import SchedulerCounters
from autellix_sgl.runtime.tokenizer.shares import SharesFile

SCHEDULER = {"model_name": "tiny", "replica": "1"}
TABLE = {"model_name": "tiny"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def scheduler_metrics(registry: CollectorRegistry) -> SchedulerMetrics:
    return SchedulerMetrics(model="tiny", replica=1, levels=3, registry=registry)


@pytest.fixture
def table_metrics(registry: CollectorRegistry) -> TableMetrics:
    return TableMetrics(model="tiny", registry=registry)


@pytest.fixture
def calls() -> CallScheduler:
    """One call runs in level 0, one waits in level 0 and one in level 2."""
    scheduler = CallScheduler(policy_named("plas"), Levels.geometric(3, 10.0, 2.0), CostModel())
    for call_id, attained in (("a", 0.0), ("b", 0.0), ("c", 100.0)):
        scheduler.arrive(call_id, CallStamp(call_id, priority_ms=attained))
    scheduler.admit("a")
    return scheduler


def value(registry: CollectorRegistry, name: str, labels: dict[str, str]) -> float | None:
    return registry.get_sample_value(f"autellix_{name}", labels)


def report(wait_ms: float, replica: int = 0) -> object:
    """As much of a call report as the metrics read."""

    class Report:
        pass

    made = Report()
    made.replica, made.wait_ms = replica, wait_ms  # type: ignore[attr-defined]
    made.waits = (0.0, wait_ms / 4, wait_ms / 2, wait_ms / 4, 0.0)  # type: ignore[attr-defined]
    return made


def test_live_calls_are_shown_by_state_and_by_level(
    registry: CollectorRegistry, scheduler_metrics: SchedulerMetrics, calls: CallScheduler
) -> None:
    """Waiting and running add up to what the levels hold."""
    scheduler_metrics.publish(calls, SchedulerCounters())
    assert value(registry, "waiting_calls", SCHEDULER) == 2
    assert value(registry, "running_calls", SCHEDULER) == 1
    per_level = [
        value(registry, "calls_per_level", {**SCHEDULER, "level": str(level)}) for level in range(3)
    ]
    assert per_level == [2, 0, 1]


def test_a_level_that_empties_goes_back_to_zero(
    registry: CollectorRegistry, scheduler_metrics: SchedulerMetrics, calls: CallScheduler
) -> None:
    """A gauge of a level nobody is in any more must not keep its last value."""
    scheduler_metrics.publish(calls, SchedulerCounters())
    calls.remove("c")
    scheduler_metrics.publish(calls, SchedulerCounters())
    assert value(registry, "calls_per_level", {**SCHEDULER, "level": "2"}) == 0


def test_counters_follow_totals(
    registry: CollectorRegistry, scheduler_metrics: SchedulerMetrics, calls: CallScheduler
) -> None:
    """Publishing twice adds the difference, not the total again."""
    counters = SchedulerCounters(preemptions=3, recomputed_tokens=40, passes=2, pass_seconds=0.5)
    scheduler_metrics.publish(calls, counters)
    counters.preemptions, counters.passes = 5, 3
    scheduler_metrics.publish(calls, counters)
    assert value(registry, "preemptions_total", SCHEDULER) == 5
    assert value(registry, "recomputed_tokens_total", SCHEDULER) == 40
    assert value(registry, "scheduling_passes_total", SCHEDULER) == 3
    assert value(registry, "scheduling_pass_seconds_total", SCHEDULER) == 0.5


def test_every_counter_of_the_scheduler_has_a_series() -> None:
    """A counter that is added to the scheduler must not be forgotten here."""
    assert list(SCHEDULER_COUNTERS) == list(SchedulerCounters().as_dict())


def test_series_are_published_every_so_many_steps(
    registry: CollectorRegistry, scheduler_metrics: SchedulerMetrics, calls: CallScheduler
) -> None:
    """Not before: a publication counts all live calls."""
    for _ in range(STEPS_BETWEEN_PUBLICATIONS - 1):
        calls.step(StepWork(decodes=("a",)))
        scheduler_metrics.stepped(calls, SchedulerCounters())
    assert value(registry, "waiting_calls", SCHEDULER) == 0
    calls.step(StepWork(decodes=("a",)))
    scheduler_metrics.stepped(calls, SchedulerCounters())
    assert value(registry, "waiting_calls", SCHEDULER) == 2


def test_an_idle_scheduler_does_not_count_its_calls_again(
    scheduler_metrics: SchedulerMetrics, calls: CallScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The idle loop publishes in every turn; without news that must cost nothing."""
    counters = SchedulerCounters()
    scheduler_metrics.publish(calls, counters)
    monkeypatch.setattr(calls, "calls_per_level", lambda: pytest.fail("counted again"))
    scheduler_metrics.publish(calls, counters)


def test_the_table_is_shown(registry: CollectorRegistry, table_metrics: TableMetrics) -> None:
    """Live and idle programs, and how the others went."""
    table = ProcessTable(policy_named("atlas"), lease_s=10.0, max_programs=2)
    statistics = CallStatistics(0, 4.0, 0.0, 0, 0, 0)
    for program in ("old", "mid", "new"):
        table.arrive(program, program, now=0.0)
        table.complete(program, statistics, now=0.0)
    table.arrive("busy", "busy", now=1.0)
    table.end("new")
    table.arrive("stray", "busy", now=1.0)
    table.reconcile({"busy"}, now=1.0)
    table_metrics.publish(table.statistics())
    assert value(registry, "programs", TABLE) == table.statistics().programs == 1
    assert value(registry, "programs_idle", TABLE) == 0
    assert value(registry, "active_calls", TABLE) == 1
    assert value(registry, "programs_opened_total", TABLE) == 4
    assert value(registry, "programs_evicted_total", TABLE) == 2
    assert value(registry, "programs_ended_total", TABLE) == 1
    assert value(registry, "calls_completed_total", TABLE) == 3
    assert value(registry, "calls_stray_total", TABLE) == 1


def test_the_replicas_that_are_left_are_shown(
    registry: CollectorRegistry, table_metrics: TableMetrics
) -> None:
    """So that an alert can be set on it: the server goes on without those that died."""
    table_metrics.publish_replicas(3)
    assert value(registry, "replicas", TABLE) == 3


def test_a_lapse_is_counted_once(registry: CollectorRegistry, table_metrics: TableMetrics) -> None:
    """The same statistics published again change nothing."""
    table = ProcessTable(policy_named("atlas"), lease_s=10.0, max_programs=9)
    table.arrive("call", "program", now=0.0)
    table.complete("call", CallStatistics(0, 4.0, 0.0, 0, 0, 0), now=0.0)
    table.expire(now=11.0)
    for statistics in (table.statistics(), replace(table.statistics())):
        table_metrics.publish(statistics)
    assert value(registry, "programs_lapsed_total", TABLE) == 1
    assert value(registry, "programs", TABLE) == 0


def test_waits_are_observed_in_seconds_by_replica(
    registry: CollectorRegistry, table_metrics: TableMetrics
) -> None:
    """Reports carry milliseconds, Prometheus wants seconds."""
    for wait_ms, replica in ((20.0, 0), (2500.0, 0), (40.0, 1)):
        table_metrics.observe(report(wait_ms, replica))  # type: ignore[arg-type]
    first = {**TABLE, "replica": "0"}
    assert value(registry, "call_wait_seconds_count", first) == 2
    assert value(registry, "call_wait_seconds_sum", first) == pytest.approx(2.52)
    assert value(registry, "call_wait_seconds_bucket", {**first, "le": "0.03"}) == 1
    assert value(registry, "call_wait_seconds_count", {**TABLE, "replica": "1"}) == 1


def test_waits_are_counted_by_reason(
    registry: CollectorRegistry, table_metrics: TableMetrics
) -> None:
    """A reason that took no time has no series."""
    for _ in range(2):
        table_metrics.observe(report(4000.0))  # type: ignore[arg-type]
    labels = {**TABLE, "replica": "0"}
    found = {
        reason.value: value(
            registry, "call_wait_reason_seconds_total", {**labels, "reason": reason.value}
        )
        for reason in REASONS
    }
    assert found == {
        "admission": None, "share": 2.0, "level": 4.0, "memory": 2.0, "slots": None
    }  # fmt: skip


def test_the_shares_file_is_shown(
    registry: CollectorRegistry, table_metrics: TableMetrics, tmp_path: Path
) -> None:
    """Once there is one: what took effect, what was refused, whether the latest is in effect."""
    assert value(registry, "shares_current", TABLE) is None
    path = tmp_path / "shares.json"
    path.write_text("{}")
    file = SharesFile(path)
    path.write_text("nonsense")
    file.look()
    for _ in range(2):
        table_metrics.publish_shares(file)
    assert value(registry, "shares_current", TABLE) == 0
    assert value(registry, "shares_loaded_total", TABLE) == 1
    assert value(registry, "shares_rejected_total", TABLE) == 1


def test_no_label_can_grow_without_bound(
    registry: CollectorRegistry,
    scheduler_metrics: SchedulerMetrics,
    table_metrics: TableMetrics,
    calls: CallScheduler,
) -> None:
    """Model, replica, level, reason and the histogram's bucket; never a program or a call."""
    scheduler_metrics.publish(calls, SchedulerCounters())
    table_metrics.observe(report(1.0))  # type: ignore[arg-type]
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    names = {label for sample in samples for label in sample.labels}
    assert names == {"model_name", "replica", "level", "reason", "le"}
    assert all(sample.name.startswith("autellix_") for sample in samples)
