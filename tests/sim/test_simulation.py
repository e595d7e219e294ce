"""The engine as a whole: conservation, determinism, jumps, and the paper's orderings in small."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autellix_sgl.core import CostModel, Levels
from autellix_sgl.errors import ConfigError
from autellix_sgl.sim import (
    SYSTEMS,
    Arrivals,
    ServerModel,
    Setting,
    Simulation,
    Tuning,
    capacity_per_s,
    compare,
    report,
    sweep,
    system_named,
)
from autellix_sgl.sim.experiments import mean_latency
from autellix_sgl.sim.replica import Replica
from autellix_sgl.workloads import (
    TOOL,
    Interrupt,
    ProgramBuilder,
    Workload,
    all_at_once,
    at_times,
    closed_loop,
    generate,
    poisson_times,
)

# Powers of two, so that a jump's sum and its steps' sums are the same number.
EXACT = CostModel(8.0, 0.0625, 0.03125, 2.0**-13)
SMALL = ServerModel(cost=EXACT, slots=6, kv_tokens=6000, chunk_tokens=64)
FEW = Tuning(
    levels=Levels((64.0, 512.0), (64.0, 448.0, math.inf)), starvation_ratio=4.0, interval=2
)


def workload(seed: int, count: int = 14, name: str = "mixed", rate: float = 40.0) -> Workload:
    """A few programs at a twentieth of their lengths, more than the small server can take."""
    programs = generate(name, count, Random(seed), scale=0.05, interrupts=0.1)
    short = [p for p in programs if len(p.calls) < 200]
    return at_times(name, short, poisson_times(Random(seed), len(short), rate))


def run(system: str, load: Workload, server: ServerModel = SMALL, **more: Any) -> Simulation:
    simulation = Simulation(load, server, system_named(system), tuning=FEW, **more)
    simulation.run()
    return simulation


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_call_runs_to_its_end(name: str, mixed: bool) -> None:
    """Tokens are conserved, nothing is left running, waiting or locked, under every system."""
    load = workload(3)
    simulation = run(name, load, replace(SMALL, mixed=mixed))
    assert simulation.table.statistics().calls_completed == load.num_calls
    assert len(simulation.table) == 0
    replica = simulation.replicas[0]
    assert replica.cache.locked == 0
    assert simulation.placer.loads.calls == [0]
    simulation.placer.check()
    replica.cache.check()
    for done in simulation.runs:
        assert done.response_ms > 0
    if name != "vllm":
        assert replica.counters.cached_tokens > 0


def test_a_run_is_the_same_every_time() -> None:
    """Two runs give equal reports, and so do processes with different hash seeds."""
    once, again = (report(run("atlas", workload(5))) for _ in range(2))
    assert once == again
    script = (
        "from tests.sim.test_simulation import run, workload\n"
        "from autellix_sgl.sim import report\n"
        "print(report(run('atlas', workload(5))))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["fcfs", "mlfq", "plas", "atlas", "las", "srpt"]))
def test_jumps_change_nothing(seed: int, name: str) -> None:
    """A run that goes step by step ends every program at the same moment."""
    load = workload(seed, 6)
    jumped = run(name, load)
    ends = [done.end_ms for done in jumped.runs]
    original = Replica._jump
    try:
        Replica._jump = lambda self, work, until_ms: 1  # type: ignore[method-assign]
        single = run(name, load)
    finally:
        Replica._jump = original  # type: ignore[method-assign]
    assert [done.end_ms for done in single.runs] == ends
    assert [done.wait_ms for done in single.runs] == [done.wait_ms for done in jumped.runs]
    assert jumped.replicas[0].counters.jumps < single.replicas[0].counters.jumps


def test_an_idle_server_answers_at_once() -> None:
    """One call alone: its prefill in chunks, then a step a token."""
    program = ProgramBuilder("p", "test")
    program.fresh(100, 4)
    simulation = run("atlas", all_at_once("one", [program.build()]))
    chunks = (8 + 64 / 16) + (8 + 36 / 16)
    decodes = 3 * (8 + 1 / 32) + (101 + 102 + 103) / 2**13
    assert simulation.now_ms == chunks + decodes


def test_calls_wait_for_their_parents_and_their_tools() -> None:
    """A child arrives when the last parent has ended and the interrupt is over."""
    program = ProgramBuilder("p", "test")
    program.fresh(1, 1)
    program.fresh(1, 9)
    program.fresh(1, 1, parents=(0, 1), interrupt=Interrupt(TOOL, 500.0))
    unit = replace(SMALL, cost=CostModel(1.0))
    assert run("fcfs", all_at_once("one", [program.build()]), unit).now_ms == 9 + 500 + 1


def test_a_closed_loop_keeps_its_concurrency() -> None:
    """No more programs at a time than asked for, and all are served."""
    load = workload(2, 9, "chat")
    simulation = run("plas", closed_loop("chat", load.programs, 2))
    moments = sorted(
        [(done.arrival_ms, 1) for done in simulation.runs]
        + [(done.end_ms, -1) for done in simulation.runs]
    )
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    assert most == 2


def test_short_memory_retracts_but_loses_nothing() -> None:
    """Four calls that fit when they start and outgrow the pool together: the worst give way."""
    programs = []
    for number in range(4):
        program = ProgramBuilder(f"p{number}", "test")
        program.fresh(10, 200)
        programs.append(program.build())
    tight = replace(SMALL, kv_tokens=400, reserve=0.0)
    simulation = run("mlfq", all_at_once("tight", programs), tight)
    assert simulation.replicas[0].counters.retractions > 0
    simulation.replicas[0].cache.check()


def test_a_call_that_can_never_fit_is_refused() -> None:
    """With what to do about it."""
    program = ProgramBuilder("p", "test")
    program.fresh(7000, 1)
    with pytest.raises(ConfigError, match="--scale"):
        run("fcfs", all_at_once("one", [program.build()]))


def test_a_preempted_call_resumes_from_the_tree() -> None:
    """With room in the pool, preemption costs one recomputed token each time."""
    simulation = run("plas", workload(6, 20, "chat", 1e4), replace(SMALL, kv_tokens=10**6))
    counters = simulation.replicas[0].counters
    assert counters.preemptions > 0
    assert counters.recomputed_tokens == counters.preemptions + counters.retractions


@pytest.mark.parametrize("placement", ["round_robin", "least_used", "program", "program-radix"])
def test_replicas_share_the_work(placement: str) -> None:
    """Two replicas finish sooner than one, and both work."""
    load = workload(7, 12)
    one, two = run("atlas", load), run("atlas", load, replicas=2, placement=placement)
    assert two.now_ms < one.now_ms
    assert all(replica.counters.steps > 0 for replica in two.replicas)
    assert two.table.statistics().calls_completed == load.num_calls


def test_long_calls_follow_their_program() -> None:
    """Algorithm 2 finds more in the caches than dealing calls out in turn."""
    chats = generate("chat", 60, Random(1), interrupts=0)
    load = at_times("chat", chats, poisson_times(Random(1), 60, 3.0))
    hits = {}
    for placement in ("program", "round_robin"):
        simulation = Simulation(
            load, ServerModel(), system_named("atlas"), replicas=4, placement=placement
        )
        simulation.run()
        hits[placement] = report(simulation)["cache_hit_rate"]
    assert hits["program"] > hits["round_robin"]  # type: ignore[operator]


def test_capacity_is_where_fcfs_saturates() -> None:
    """At 0.7 of it the server idles now and then, at 1.5 programs queue without end."""
    setting = Setting(workload="chat", programs=500)
    latencies = {}
    for load in (0.7, 1.5):
        found = compare(setting, Arrivals("poisson", load), ["fcfs"])["systems"]
        latencies[load] = found["fcfs"]  # type: ignore[index]
    assert latencies[0.7]["busy_share"] > 0.6
    assert mean_latency(latencies[1.5]) > 1.5 * mean_latency(latencies[0.7])
    assert mean_latency(latencies[0.7]) < 30  # a lone call decodes a token in about 8 ms


def test_capacity_grows_with_the_server() -> None:
    """More slots, or no prefix cache, and the estimate moves the right way."""
    programs = generate("mixed", 60, Random(1))
    server = ServerModel()
    assert capacity_per_s(programs, replace(server, slots=128)) > capacity_per_s(programs, server)
    assert capacity_per_s(programs, replace(server, prefix_cache=False)) < capacity_per_s(
        programs, server
    )


def test_the_papers_order_of_systems_on_mixed() -> None:
    """At 1.5 times capacity FCFS is worst, then MLFQ, then PLAS and ATLAS, and SRPT is best.

    90 programs on a quarter of the server, so that they queue as many more would on all of it.
    """
    server = ServerModel(slots=16, kv_tokens=100_000)
    found = sweep(
        Setting(programs=90, seed=3, server=server),
        [1.5],
        ["fcfs", "mlfq", "plas", "atlas", "srpt"],
    )
    [row] = found["rows"]  # type: ignore[misc]
    latency = {name: mean_latency(system) for name, system in row["systems"].items()}
    assert latency["fcfs"] > latency["mlfq"] > latency["atlas"] > latency["srpt"]
    assert latency["mlfq"] > latency["plas"] > latency["srpt"]


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    """Systems, placements and arrivals."""
    with pytest.raises(ConfigError, match="srpt"):
        system_named("best")
    with pytest.raises(ConfigError, match="round_robin"):
        run("fcfs", workload(1), placement="best")
    with pytest.raises(ConfigError, match="poisson"):
        Arrivals("sometimes").apply(Setting(programs=3), generate("chat", 3, Random(1)))
