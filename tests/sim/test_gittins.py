"""Kinds of programs in the simulator: known by their system prompts, learned as they end."""

from __future__ import annotations

from random import Random

import pytest

from autellix_sgl.core import Levels
from autellix_sgl.core.programs.kinds import heads_of
from autellix_sgl.sim import Setting, Simulation, Tuning, capacity_per_s, report, system_named
from autellix_sgl.sim.prompts import Prompts
from autellix_sgl.sim.replay import recorded, replay
from autellix_sgl.workloads import (
    ProgramBuilder,
    ProgramTrace,
    Workload,
    at_times,
    generate,
    poisson_times,
)
from tests.sim.test_simulation import SMALL

FINE = Tuning(levels=Levels.geometric(10, 100.0, 2.0), starvation_ratio=32.0, interval=2)
PROGRAMS = 150


def program(number: int, kind: str, rng: Random) -> ProgramTrace:
    """Short: one call. Long: about 12 calls, one after another, with what was said before."""
    builder = ProgramBuilder(f"{kind}-{number}", kind)
    last = builder.fresh(rng.randint(4, 12), rng.randint(4, 12), system=kind, system_tokens=64)
    for _ in range(rng.randint(9, 13) if kind == "long" else 0):
        last = builder.extend(last, rng.randint(4, 12), rng.randint(8, 24))
    return builder.build()


@pytest.fixture(scope="module")
def overload() -> Workload:
    """One long program to three short ones, half as many again as the server can take."""
    rng = Random(3)
    kinds = [rng.choice(["long", "short", "short", "short"]) for _ in range(PROGRAMS)]
    programs = [program(number, kind, rng) for number, kind in enumerate(kinds)]
    rate = 1.5 * capacity_per_s(programs, SMALL)
    return at_times("two kinds", programs, poisson_times(rng, PROGRAMS, rate))


def played(system: str, workload: Workload, **more: object) -> Simulation:
    simulation = Simulation(workload, SMALL, system_named(system), tuning=FINE, **more)  # type: ignore[arg-type]
    simulation.run()
    return simulation


def mean_response_ms(simulation: Simulation) -> float:
    return sum(run.response_ms for run in simulation.runs) / len(simulation.runs)


def test_programs_answer_sooner_than_by_attained_service(overload: Workload) -> None:
    plas, atlas, gittins = (
        mean_response_ms(played(name, overload)) for name in ("plas", "atlas", "gittins")
    )
    assert gittins < 0.9 * min(plas, atlas)


def test_what_it_decided_is_decided_again(overload: Workload) -> None:
    log: list[tuple[str, dict[str, object]]] = []
    played("gittins", overload, record=lambda event, fields: log.append((event, fields)))
    stamps = [fields["stamp"] for event, fields in log if event == "arrive"]
    assert any("itinerary" in stamp for stamp in stamps if isinstance(stamp, dict))
    assert replay(recorded(log)) == (len(log), [])


def test_the_other_policies_do_not_look_at_kinds(overload: Workload) -> None:
    log: list[tuple[str, dict[str, object]]] = []
    simulation = played("atlas", overload, record=lambda event, fields: log.append((event, fields)))
    assert simulation.table.kinds is None
    for event, fields in log:
        if event == "arrive":
            assert isinstance(fields["stamp"], dict)
            assert not {"itinerary", "order"} & set(fields["stamp"])


def test_a_run_that_learns_is_the_same_every_time(overload: Workload) -> None:
    assert report(played("gittins", overload)) == report(played("gittins", overload))


def test_prompts_share_what_the_trace_says_they_share() -> None:
    prompts = Prompts()
    by_system: dict[str, set[tuple[int, ...]]] = {}
    for trace in generate("react", 40, Random(1)):
        tokens = prompts.tokens(trace, 0)
        assert len(tokens) == trace.calls[0].prompt_tokens
        by_system.setdefault(trace.calls[0].system, set()).add(heads_of(tokens)[:8])
    assert len(by_system) > 4
    assert all(len(heads) == 1 for heads in by_system.values())
    assert len(set.union(*by_system.values())) == len(by_system)


def test_a_prompt_that_goes_on_repeats_what_was_said() -> None:
    prompts = Prompts()
    trace = program(0, "long", Random(1))
    first, second = prompts.tokens(trace, 0), prompts.tokens(trace, 1)
    assert second[: len(first)] == first


def test_tools_can_take_as_long_as_coding_agents_tools() -> None:
    """Median 0.1 s, and nobody waits for a human."""
    setting = Setting(workload="react", programs=100, tool_times="tracelab")
    times_ms = sorted(
        call.interrupt.duration_ms
        for trace in setting.draw()
        for call in trace.calls
        if call.interrupt is not None
    )
    assert 60 < times_ms[len(times_ms) // 2] < 160
    assert times_ms[int(0.9 * len(times_ms))] > 5_000
    chats = Setting(workload="chat", programs=20, tool_times="tracelab").draw()
    assert all(call.interrupt is None for trace in chats for call in trace.calls)
