"""A call leaves the table, and the load of its replica, whichever way its request leaves."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import (
    CostModel,
    Forecast,
    Kinds,
    Levels,
    Placer,
    ProcessTable,
    policy_named,
)
from autellix_sgl.runtime.tokenizer.call_ends import CallEnds, CallStates

REPORT: Any = SimpleNamespace(
    replica=0,
    level=1,
    service_ms=4.0,
    wait_ms=2.0,
    preemptions=0,
    demotions=0,
    promotions=0,
    recomputed_tokens=0,
    waits=(0.0,) * 5,
)
PROMPT = list(range(100, 140))


class Replicas:
    """Two replicas, as far as a call that leaves has to do with them."""

    def __init__(self) -> None:
        self.placer = Placer("program", 2, CostModel(), batch=4)

    def leave(self, meta_info: dict[str, Any], *, aborted: bool) -> None:
        self.placer.abort(meta_info["id"])

    def abort(self, rid: str) -> None:
        if rid in self.placer:
            self.placer.abort(rid)


class Manager:
    """The table, and what SGLang does with a request's state."""

    def __init__(self) -> None:
        self.table = ProcessTable(
            policy_named("gittins"),
            lease_s=1e9,
            max_programs=100,
            kinds=Kinds(enough_programs=1),
            forecast=Forecast(Levels.geometric(4, 10.0, 2.0)),
        )
        self.replicas = Replicas()
        self.ends = CallEnds(self.table, self.replicas, None)  # type: ignore[arg-type]
        self.states = CallStates(self.ends.gone)

    def arrive(self, rid: str, program: str) -> None:
        self.states[rid] = None  # type: ignore[assignment]
        self.table.arrive(rid, program, now=0.0, prompt=PROMPT)
        footprint = self.table.program_of(rid).footprint
        self.replicas.placer.place(rid, footprint, prompt_tokens=9, max_output_tokens=4)

    def report(self, rid: str, *, aborted: bool) -> None:
        meta_info = {"id": rid, "completion_tokens": 3, "cached_tokens": 0}
        self.ends.charge(meta_info, REPORT, aborted=aborted)
        assert meta_info["program"]["service_ms"] == REPORT.service_ms  # type: ignore[index]
        del self.states[rid]

    def check(self) -> None:
        self.table.check()
        calls = {call.id for call in self.table.active_calls()}
        assert calls == set(self.states)
        assert all((rid in self.replicas.placer) == (rid in calls) for rid in map(str, range(80)))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["arrive", "finish", "abort", "refuse", "pop", "unsent"]),
            st.integers(0, 3),
        ),
        max_size=80,
    )
)
def test_active_calls_are_those_that_somebody_waits_for(events: list[tuple[str, int]]) -> None:
    """After each way out; at the end the histories count nobody under way."""
    manager = Manager()
    for number, (event, which) in enumerate(events):
        live = list(manager.states)
        if event == "arrive":
            manager.arrive(str(number), f"P{which}")
        elif event == "unsent":
            manager.states[str(number)] = None  # type: ignore[assignment]
            assert manager.states.pop(str(number)) is None
        elif not live:
            assert manager.states.pop("nobody", None) is None
        elif event in ("finish", "abort"):
            manager.report(live[which % len(live)], aborted=event == "abort")
        elif event == "refuse":
            del manager.states[live[which % len(live)]]
        else:
            manager.states.pop(live[which % len(live)])
        manager.check()
    for rid in list(manager.states):
        del manager.states[rid]
    manager.check()
    assert all(program.history_bin is None for program in manager.table)
    assert manager.table.statistics().calls_stray == 0


def test_a_state_that_is_missing_is_missing_as_in_any_mapping() -> None:
    """SGLang relies on KeyError, and on the default of pop."""
    states = CallStates(lambda rid: pytest.fail(f"{rid} was not there"))
    with pytest.raises(KeyError):
        del states["a"]
    with pytest.raises(KeyError):
        states.pop("a")
    assert states.pop("a", None) is None


def test_a_call_that_was_overlooked_is_named_mended_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The net below: it takes the call out everywhere, and leaves the others alone."""
    manager = Manager()
    manager.arrive("lost", "P")
    manager.arrive("kept", "P")
    dict.__delitem__(manager.states, "lost")
    with caplog.at_level(logging.ERROR):
        manager.ends.check(manager.states)
        manager.ends.check(manager.states)
    manager.check()
    assert [record.getMessage() for record in caplog.records] == [
        "1 calls were in the process table and nobody waited for them: 'lost'"
    ]
    statistics = manager.table.statistics()
    assert (statistics.calls_stray, statistics.calls_aborted, statistics.active_calls) == (1, 1, 1)
