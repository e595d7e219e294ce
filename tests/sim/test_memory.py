"""Eviction by value and program admission in the simulator, held against the optimum."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autellix_sgl.errors import ConfigError
from autellix_sgl.sim import (
    Arrivals,
    ServerModel,
    Setting,
    Simulation,
    Tuning,
    memory,
    report,
    system_named,
)
from autellix_sgl.sim.eviction import EvictionOrder, LeastRecent, LeastWorth
from autellix_sgl.sim.optimum import RecordedCache
from autellix_sgl.workloads import (
    ProgramBuilder,
    ProgramTrace,
    at_times,
    closed_loop,
    generate,
    poisson_times,
)

SMALL = ServerModel(slots=4, kv_tokens=12_000, swap_cost=1.0)
ROOMY = ServerModel(slots=4, kv_tokens=10**7, swap_cost=1.0)
# What a trace says of why calls waited decides nothing.
EXPLANATIONS = ("waits", "short_of")
BOTH = Tuning(program_admission="working-set", program_eviction="value")


def played(
    system: str, tuning: Tuning | None = None, server: ServerModel = SMALL
) -> tuple[Simulation, list[tuple[Any, ...]]]:
    """A run that preempts and evicts, and what was decided: no times, which sums may round."""
    programs = generate("mixed", 30, Random(3), scale=0.1)
    workload = at_times("mixed", programs, poisson_times(Random(4), len(programs), 4.0))
    decisions: list[tuple[Any, ...]] = []

    def record(event: str, fields: dict[str, object]) -> None:
        if event not in EXPLANATIONS:
            decisions.append((event, fields.get("call"), fields.get("level"), fields.get("ticket")))

    simulation = Simulation(
        workload, server, system_named(system), tuning=tuning or Tuning(), record=record
    )
    simulation.run()
    return simulation, decisions


@pytest.mark.parametrize("system", ["fcfs", "atlas"])
def test_with_room_for_all_nothing_is_decided_otherwise(system: str) -> None:
    """Nothing has to leave and everybody fits, so the flags change no call's fate."""
    off, decided_off = played(system, server=ROOMY)
    both, decided_both = played(system, BOTH, server=ROOMY)
    kept = [one for one in decided_both if one[0] not in ("programs", "end_program")]
    assert kept == decided_off
    assert report(both) == report(off)


def test_in_a_small_pool_both_flags_find_more_and_finish_sooner() -> None:
    """Coding agents in a third of what they stand on; and no eviction beats the optimum."""
    setting = Setting(
        workload="coding",
        programs=24,
        scale=0.1,
        interrupts=0.02,
        server=ServerModel(swap_cost=1.0),
    )
    found: Any = memory(setting, Arrivals("closed", size=12), ["fcfs"], 0.33)
    rows = {(row["admission"], row["eviction"]): row for row in found["rows"]}
    assert found["setting"]["server"]["kv_tokens"] == int(0.33 * found["working_set_tokens"])
    for row in rows.values():
        assert row["cache_hit_rate"] <= row["optimal_hit_rate"]
    neither, together = rows["off", "lru"], rows["working-set", "value"]
    assert together["cache_hit_rate"] > neither["cache_hit_rate"]
    assert together["makespan_s"] < neither["makespan_s"]


def test_a_loop_without_newcomers_has_no_working_set() -> None:
    """It is measured while programs come."""
    setting = Setting(workload="chat", programs=2, scale=0.05)
    with pytest.raises(ConfigError, match="programs"):
        memory(setting, Arrivals("closed", size=4), ["fcfs"], 0.5)


def chain(name: str, length: int) -> ProgramTrace:
    program = ProgramBuilder(name, "test")
    program.fresh(length - 1, 1)
    return program.build()


USES = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), min_size=1, max_size=40)


def played_uses(uses: list[tuple[int, int]], order: EvictionOrder | None) -> tuple[float, float]:
    """Uses of five contexts, which only grow, in a pool of 60 tokens."""
    cache = RecordedCache(60, order=order)
    branches = [cache.branch_of(chain(f"p{which}", 40), 0) for which in range(5)]
    grown = [0] * len(branches)
    for which, length in uses:
        grown[which] = max(grown[which], length)
        cache.acquire(branches[which], grown[which])
        cache.release(branches[which], grown[which], 0)
        cache.check()
    return cache.hit_rates()


@settings(deadline=None)
@given(USES)
def test_no_order_of_eviction_finds_more_than_the_optimum(uses: list[tuple[int, int]]) -> None:
    for order in (LeastRecent(), LeastWorth(lambda branch: (0, float(branch.number)))):
        found, optimal = played_uses(uses, order)
        assert found <= optimal


def test_the_optimum_keeps_what_is_used_next() -> None:
    """Three contexts of 30 in a pool of 60, in turn: LRU finds nothing, foresight every other."""
    found, optimal = played_uses([(which % 3, 30) for which in range(12)], LeastRecent())
    assert found == 0
    # A context's last token is always computed: 29 of 30 at best.
    assert optimal == pytest.approx(5 * 29 / (12 * 30), abs=0.05)


def test_the_closed_loop_lets_the_next_program_in_when_one_ends() -> None:
    programs = generate("chat", 6, Random(1), scale=0.05)
    simulation = Simulation(closed_loop("chat", programs, 2), SMALL, system_named("fcfs"))
    runs = simulation.run()
    assert not simulation.filling
    assert [run.arrival_ms for run in runs[:2]] == [0.0, 0.0]
    ends = sorted(run.end_ms for run in runs)
    assert [run.arrival_ms for run in runs[2:]] == ends[:4]
