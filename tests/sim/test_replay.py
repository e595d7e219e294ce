"""A trace decides the same again, whoever recorded it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autellix_sgl.core import (
    CallStamp,
    Candidate,
    CostModel,
    Levels,
    ProgramMemory,
    Running,
    StepWork,
    policy_named,
)
from autellix_sgl.errors import ConfigError
from autellix_sgl.sim.cli import main
from autellix_sgl.sim.jump import JumpingScheduler
from autellix_sgl.sim.replay import recorded, replay, replay_file
from autellix_sgl.workloads import WorkloadError

Log = list[tuple[str, dict[str, object]]]


def recorder(pool_tokens: int = 0) -> tuple[JumpingScheduler, Log]:
    """A scheduler as the simulator's, with program admission if a pool is given; its log."""
    log: Log = []
    model = CostModel(1.0, 0.1, 0.01, 0.001)
    scheduler = JumpingScheduler(
        policy_named("plas"),
        Levels((2.0, 6.0), (2.0, 4.0, math.inf)),
        model,
        starvation_ratio=1.5,
        interval=2,
        record=lambda event, fields: log.append((event, fields)),
        memory=ProgramMemory(pool_tokens, model, admission=True) if pool_tokens else None,
    )
    return scheduler, log


KINDS = (
    *("arrive", "admit", "requeue", "step", "jump", "remove", "promote", "cost", "choose"),
    *("review", "end"),
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 9),
    ),
    max_size=80,
)


def drive(scheduler: JumpingScheduler, log: Log, events: list[tuple[str, int]]) -> None:
    """Whatever of *events* is possible, with a change of the cost model now and then."""
    running: list[str] = []
    for number, (event, which) in enumerate(events):
        waiting, offered = list(scheduler.waiting()), list(scheduler.offered())
        if event == "arrive":
            service = float(which)
            stamp = CallStamp(f"P{which}", f"t{number % 2}", service, service / 3, service)
            if which % 3 == 0:
                # An order so large that tickets are beyond what a float can tell apart.
                legs = ((2, 1.5), (0, 0.5), (1, None))
                stamp = replace(stamp, itinerary=legs, order=10**6 * number)
            scheduler.arrive(f"c{number}", stamp, 3 * which + number, which % 3)
        elif event == "admit" and offered:
            running.append(offered[which % len(offered)])
            scheduler.admit(running[-1], 20, which)
        elif event == "review":
            scheduler.admit_programs()
        elif event == "end":
            scheduler.end_program(f"P{which}")
        elif event == "requeue" and running:
            scheduler.requeue(running.pop(which % len(running)))
        elif event == "remove" and waiting + running:
            call = (waiting + running)[which % len(waiting + running)]
            scheduler.remove(call, 30)
            running = [other for other in running if other != call]
        elif event == "step":
            prefills = tuple((call, which) for call in running[:1])
            scheduler.step(StepWork(prefills, tuple(running[1:]), 10 * which))
        elif event == "jump":
            scheduler.step(StepWork((), tuple(running), 10 * which), repeat=which + 2)
        elif event == "promote":
            scheduler.promote_starving()
        elif event == "cost":
            scheduler.use_cost_model(CostModel(1.0 + which / 7))
        elif event == "choose":
            scheduler.choose_victims(
                [Candidate(scheduler.call(call).key, which) for call in waiting],
                [Running(call, scheduler.call(call).key, 5, which) for call in running],
                free_slots=0,
                free_tokens=which - 5,
                min_steps_left=2,
            )


def through_json(log: Log, path: Path) -> Path:
    def plain(value: object) -> object:
        assert is_dataclass(value)
        assert not isinstance(value, type)
        return asdict(value)

    path.write_text("".join(json.dumps([e, f], default=plain) + "\n" for e, f in log))
    return path


@settings(deadline=None)
@given(EVENTS)
def test_any_recorded_run_decides_the_same_again(events: list[tuple[str, int]]) -> None:
    """Level, ticket and clock of every event, also across changes of the cost model."""
    for pool_tokens in (0, 60):
        scheduler, log = recorder(pool_tokens)
        drive(scheduler, log, events)
        scheduler.check()
        count, differences = replay(recorded(log))
        assert differences == []
        assert count == len(log)


def changed(event: str, field: str, to: object) -> Callable[[Log], None]:
    def change(log: Log) -> None:
        for name, fields in log:
            if name == event:
                fields[field] = to
                return
        raise AssertionError(f"no {event} in the log")

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("arrive", "level", 1),
        changed("promote", "ticket", 99),
        changed("admit", "clock_ms", 1e9),
        changed("step", "clock_ms", 1.0),
        changed("choose_victims", "victims", ["x"]),
        lambda log: log.pop(),
        lambda log: log.insert(2, log[1]),
    ],
)
def test_another_decision_is_found(change: Callable[[Log], None]) -> None:
    """A changed level, ticket or clock, and an event too many, each give a difference."""
    scheduler, log = recorder()
    scheduler.arrive("x", CallStamp("X"))
    scheduler.admit("x")
    scheduler.arrive("old", CallStamp("A", "", 7.0, 0.0, 7.0))
    scheduler.arrive("old2", CallStamp("A", "", 7.0, 0.0, 7.0))
    for _ in range(12):
        scheduler.step(StepWork(decodes=("x",)))
    assert len(scheduler.promote_starving()) == 2
    chosen = scheduler.choose_victims(
        [Candidate(scheduler.call("old").key, 0)],
        [Running("x", scheduler.call("x").key, 1, 1)],
        free_slots=0,
        free_tokens=0,
        min_steps_left=2,
    )
    assert chosen == []
    scheduler.remove("x")
    change(log)
    last_was_dropped = log[-1][0] != "remove"
    _, differences = replay(recorded(log))
    assert bool(differences) != last_was_dropped


def test_a_file_is_replayed_with_json_between(tmp_path: Path) -> None:
    """Floats, stamps and work come back from JSON to the last bit."""
    scheduler, log = recorder()
    drive(scheduler, log, [("arrive", 3), ("admit", 0), ("arrive", 7), ("step", 3), ("jump", 9),
                           ("cost", 2), ("step", 1), ("promote", 0), ("remove", 0)])  # fmt: skip
    found = replay_file(through_json(log, tmp_path / "t"))
    assert found["identical"] is True
    assert found["events"] == len(log)


@pytest.mark.parametrize("system", ["fcfs", "mlfq", "plas", "atlas"])
def test_the_simulators_own_trace_replays(
    tmp_path: Path, system: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """run --trace, then replay: identical."""
    trace = str(tmp_path / "trace")
    options = ["--workload", "mixed", "--programs", "12", "--load", "3", "--slots", "8"]
    tuning = ["--beta", "2", "--first-quantum-ms", "50"]
    assert main(["run", *options, *tuning, "--systems", system, "--trace", trace]) == 0
    capsys.readouterr()
    assert main(["replay", trace]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["identical"] is True
    assert found["events"] > 1000


def test_a_trace_without_its_head_is_refused(tmp_path: Path) -> None:
    """Nothing can be decided again without the levels and the cost model."""
    _, log = recorder()
    with pytest.raises(ConfigError, match="start line"):
        replay(recorded(log[1:]))
    bad = tmp_path / "bad"
    bad.write_text('["start", {"policy": "plas"}]\n')
    with pytest.raises(WorkloadError) as caught:
        replay_file(bad)
    assert (caught.value.line, caught.value.field) == (1, "quanta_ms")


def test_a_line_that_is_no_event_is_named(tmp_path: Path) -> None:
    """File, line and field."""
    _, log = recorder()
    path = through_json(log, tmp_path / "t")
    path.write_text(path.read_text() + '["arrive", {"call": "a"}]\n')
    with pytest.raises(WorkloadError) as caught:
        replay_file(path)
    assert (caught.value.line, caught.value.field) == (2, "stamp")


@pytest.mark.parametrize("legs", [[[3, None]], [[-1, 1.0]], [[0]], ["x"], [[0, "long"]], 5])
def test_an_itinerary_that_is_none_is_refused_by_name(legs: object, tmp_path: Path) -> None:
    scheduler, log = recorder()
    scheduler.arrive("x", CallStamp("X"))
    stamp = log[-1][1]["stamp"]
    assert isinstance(stamp, dict)
    stamp["itinerary"] = legs
    with pytest.raises(WorkloadError) as caught:
        replay_file(through_json(log, tmp_path / "t"))
    assert caught.value.field == "stamp.itinerary"
