"""Why a call waited: every step goes to one reason, and the reasons add up to the wait."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autellix_sgl.core import (
    REASONS,
    Call,
    CallScheduler,
    CallStamp,
    CostModel,
    Levels,
    Reason,
    StepWork,
    by_reason,
    policy_named,
)
from autellix_sgl.core.calls.waits import FEW_STANDINGS, WaitClock, settled


def scheduler(turn_ms: float | None = None, cost: CostModel | None = None) -> CallScheduler:
    """One unit of service a step; three levels that begin at 0, 2 and 6."""
    return CallScheduler(
        policy_named("plas"),
        Levels((2.0, 6.0), (2.0, 4.0, math.inf)),
        cost or CostModel(1.0),
        starvation_ratio=3.0,
        share_turn_ms=turn_ms,
    )


def why(s: CallScheduler, call: str) -> dict[str, float]:
    """The reasons of a call's wait until now that took any time, the longest first."""
    return {reason.value: ms for reason, ms in by_reason(s.waits_of(call)[1])}


def run(s: CallScheduler, *calls: str, steps: int = 1) -> None:
    for _ in range(steps):
        s.step(StepWork(decodes=calls))


def test_behind_a_better_level_the_level_is_why() -> None:
    """Whether the better call waits too or has the slot."""
    s = scheduler()
    s.arrive("runs", CallStamp("A", priority_ms=3.0))
    s.admit("runs")
    s.arrive("old", CallStamp("B", "", 7.0, 0.0, 7.0))
    run(s, "runs", steps=2)
    assert why(s, "old") == {"level": 2.0}
    s.arrive("new", CallStamp("C"))
    run(s, "runs")
    assert why(s, "old") == {"level": 3.0}
    assert why(s, "new") == {"slots": 1.0}


@pytest.mark.parametrize("short_of", [Reason.MEMORY, Reason.SLOTS])
def test_among_equals_the_shortage_is_why(short_of: Reason) -> None:
    """Of what the latest admission ran out."""
    s = scheduler()
    s.arrive("runs", CallStamp("A"))
    s.admit("runs")
    s.arrive("waits", CallStamp("B"))
    s.short_of(short_of)
    run(s, "runs")
    assert why(s, "waits") == {short_of.value: 1.0}


def test_behind_another_tenants_earlier_turn_the_share_is_why() -> None:
    """Although the call's level is the better one."""
    s = scheduler(turn_ms=2.0)
    for number in range(2):
        s.arrive(f"greedy{number}", CallStamp("G", tenant="greedy"))
    s.admit("greedy0")
    run(s, "greedy0", steps=2)
    s.arrive("modest0", CallStamp("M", priority_ms=9.0, tenant="modest"))
    s.arrive("modest1", CallStamp("M", priority_ms=9.0, tenant="modest"))
    s.requeue("greedy0")
    s.admit("modest0")
    run(s, "modest0")
    assert why(s, "greedy1") == {"slots": 2.0, "share": 1.0}
    assert why(s, "modest1") == {"slots": 1.0}


def test_reasons_come_in_the_order_of_their_times() -> None:
    """And those that took none are left out."""
    waits = (0.0, 1.5, 3.0, 0.0, 0.25)
    assert by_reason(waits) == [(Reason.LEVEL, 3.0), (Reason.SHARE, 1.5), (Reason.SLOTS, 0.25)]


def test_a_trace_says_why_once_a_wait_is_over() -> None:
    """Not for a call that did not wait."""
    log: list[tuple[str, dict[str, object]]] = []
    s = CallScheduler(
        policy_named("plas"),
        Levels.geometric(3, 2.0, 2.0),
        CostModel(1.0),
        record=lambda event, fields: log.append((event, fields)),
    )
    s.arrive("first", CallStamp("A"))
    s.admit("first")
    s.arrive("second", CallStamp("B"))
    run(s, "first")
    s.short_of(Reason.MEMORY)
    run(s, "first", steps=1)
    s.admit("second")
    told = [fields for event, fields in log if event == "waits"]
    assert told == [{"call": "second", "wait_ms": 2.0, "reasons": {"slots": 1.0, "memory": 1.0}}]


class Naive:
    """Every step looked at for every call that waits, as the module's docstring defines it."""

    def __init__(self) -> None:
        self.waits: dict[str, list[float]] = {}

    def step(self, s: CallScheduler, running: Sequence[str], short_of: Reason, ms: float) -> None:
        waiting = [s.call(call) for call in s.waiting()]
        if not waiting:
            return
        best = min(standing_of(call) for call in waiting)
        turn, level = min(best, max((standing_of(s.call(call)) for call in running), default=best))
        for call in waiting:
            reason = short_of
            if standing_of(call)[0] > turn:
                reason = Reason.SHARE
            elif standing_of(call)[1] > level:
                reason = Reason.LEVEL
            self.waits.setdefault(call.id, [0.0] * len(REASONS))[REASONS.index(reason)] += ms


def standing_of(call: Call) -> tuple[int, int]:
    return (call.account.turn if call.account else 0, call.level)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["arrive", "arrive", "admit", "requeue", "step", "step", "remove", "promote", "short"]
        ),
        st.integers(0, 9),
    ),
    max_size=150,
)


# Down, up and down again.
ITINERARY = ((1, 2.0), (2, 1.0), (0, 1.0), (1, None))


def play(s: CallScheduler, events: Sequence[tuple[str, int]], naive: Naive) -> None:
    """Whatever of *events* is possible; after each, the sums are looked at."""
    running: list[str] = []
    short_of = Reason.SLOTS
    for number, (event, which) in enumerate(events):
        waiting = list(s.waiting())
        if event == "arrive":
            service = float(which)
            stamp = CallStamp(
                f"P{which}",
                priority_ms=service,
                program_wait_ms=service,
                program_service_ms=service,
                itinerary=ITINERARY if which % 4 == 3 else (),
                order=which % 2,
                tenant=f"t{which % 3}",
            )
            s.arrive(f"c{number}", stamp)
        elif event == "admit" and waiting:
            running.append(waiting[which % len(waiting)])
            s.admit(running[-1])
        elif event == "requeue" and running:
            s.requeue(running.pop(which % len(running)))
        elif event == "remove" and waiting + running:
            call = (waiting + running)[which % len(waiting + running)]
            compare(s, call, naive)
            statistics = s.remove(call)
            assert sum(statistics.waits) == statistics.wait_ms
            naive.waits.pop(call, None)
            running = [other for other in running if other != call]
        elif event == "step":
            work = StepWork(decodes=tuple(running))
            naive.step(s, running, short_of, s.cost_model.step_ms(work))
            s.step(work)
        elif event == "promote":
            s.promote_starving()
        elif event == "short":
            short_of = (Reason.MEMORY, Reason.SLOTS)[which % 2]
            s.short_of(short_of)
        for call in (*s.waiting(), *running):
            compare(s, call, naive)


def compare(s: CallScheduler, call: str, naive: Naive) -> None:
    wait_ms, waits = s.waits_of(call)
    assert sum(waits) == wait_ms
    assert all(ms >= 0 for ms in waits)
    expected = naive.waits.get(call, [0.0] * len(REASONS))
    assert waits == pytest.approx(expected, abs=1e-5)


@settings(deadline=None, max_examples=200)
@given(EVENTS, st.sampled_from([None, 4.0]), st.sampled_from([1.0, 0.3]))
def test_every_step_of_a_wait_has_one_reason(
    events: list[tuple[str, int]], turn_ms: float | None, base_ms: float
) -> None:
    """As a look at each call in each step finds it; the sum is the wait, to the last bit."""
    play(scheduler(turn_ms, CostModel(base_ms, 0.0, 0.1)), events, Naive())


@given(st.floats(0, 1e12), st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_parts_add_up_in_any_order(wait_ms: float, shares: list[float]) -> None:
    """Whatever rounding made of them, and close to what they were: four cuts, and rounding."""
    total = sum(shares) or 1.0
    rough = [wait_ms * share / total for share in shares]
    parts = settled(wait_ms, rough)
    for order in permutations(parts):
        assert sum(order) == wait_ms
    if any(shares):
        assert parts == pytest.approx(rough, abs=max(1e-5, 8 * math.ulp(wait_ms)))


def test_standings_that_nobody_can_be_in_are_forgotten() -> None:
    """Turns go on for ever; what is kept of them does not."""
    clock = WaitClock()
    for turn in range(40 * FEW_STANDINGS):
        clock.forget_turns_before(turn)
        clock.advance((turn, 0), 1.0, Reason.SLOTS)
    assert len(clock._at_front) <= FEW_STANDINGS
    assert len(clock._in_turn) <= FEW_STANDINGS
