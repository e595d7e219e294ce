"""Calls whose stamps say which levels they pass through."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import CallScheduler, CallStamp, CostModel, Levels, StepWork, policy_named
from autellix_sgl.core.calls.model import Itinerary

# Three levels that begin at 0, 2 and 6.
LEVELS = Levels((2.0, 6.0), (2.0, 4.0, math.inf))


def scheduler(
    beta: float = 0.0, log: list[tuple[str, dict[str, object]]] | None = None
) -> CallScheduler:
    """One unit of service a step."""
    return CallScheduler(
        policy_named("gittins"),
        LEVELS,
        CostModel(1.0),
        starvation_ratio=beta,
        record=None if log is None else lambda event, fields: log.append((event, fields)),
    )


def decode(s: CallScheduler, *calls: str, steps: int = 1) -> None:
    for _ in range(steps):
        s.step(StepWork(decodes=calls))


def going(*legs: tuple[int, float | None], order: int = 0, service_ms: float = 0.0) -> CallStamp:
    return CallStamp("A", priority_ms=service_ms, itinerary=legs, order=order)


def test_a_call_enters_where_its_itinerary_begins_whatever_its_program_has_had() -> None:
    s = scheduler()
    assert s.arrive("a", going((0, None), service_ms=1000.0)).level == 0
    assert s.arrive("b", going((2, None))).level == 2


def test_a_call_gets_worse_and_better_as_its_itinerary_says() -> None:
    s = scheduler()
    s.arrive("a", going((1, 2.0), (2, 3.0), (0, None)))
    s.admit("a")
    seen = [s.call("a").level]
    for _ in range(6):
        decode(s, "a")
        seen.append(s.call("a").level)
    assert seen == [1, 1, 2, 2, 2, 0, 0]
    assert s.call("a").demotions == 1


def test_a_step_that_overruns_several_legs_ends_in_the_right_one() -> None:
    s = scheduler()
    s.arrive("a", going((2, 0.25), (1, 0.5), (0, 5.0), (2, None)))
    s.admit("a")
    decode(s, "a")
    assert s.call("a").level == 0
    assert s.call("a").quantum_left_ms == 4.75


def test_the_last_leg_never_ends() -> None:
    """Even if it says so: there is nowhere to go."""
    s = scheduler()
    s.arrive("a", going((1, 2.0)))
    s.admit("a")
    decode(s, "a", steps=100)
    assert s.call("a").level == 1


def test_a_starving_call_goes_to_the_top_and_from_there_back_to_where_it_was() -> None:
    s = scheduler(beta=1.0)
    s.arrive("a", CallStamp("A", program_service_ms=1.0, itinerary=((2, 3.0), (1, None))))
    s.arrive("b", CallStamp("B"))
    s.admit("b")
    decode(s, "b", steps=6)
    assert s.promote_starving() == ["a"]
    assert s.call("a").level == 0
    s.admit("a")
    decode(s, "a", steps=2)
    assert s.call("a").level == 2
    decode(s, "a", steps=3)
    assert s.call("a").level == 1


def test_a_call_that_begins_in_a_lower_level_may_wait_as_if_it_had_earned_it() -> None:
    """Its program has had nothing, and would starve by the rule before it has waited at all."""
    s = scheduler(beta=2.0)
    s.arrive("a", going((2, None)))
    s.arrive("b", CallStamp("B"))
    s.admit("b")
    decode(s, "b", steps=11)
    assert s.promote_starving() == []
    decode(s, "b")
    assert s.promote_starving() == ["a"]


def test_within_a_level_the_lower_order_goes_first_whoever_came_first() -> None:
    s = scheduler()
    s.arrive("late", going((1, None), order=7))
    s.arrive("late2", going((1, None), order=7))
    s.arrive("early", going((1, None), order=3))
    s.arrive("best", going((0, None), order=9))
    assert s.head(9) == ["best", "early", "late", "late2"]


def test_a_call_that_comes_into_a_level_keeps_its_order_there() -> None:
    s = scheduler()
    s.arrive("a", going((0, 2.0), (1, None), order=1))
    s.admit("a")
    s.arrive("b", going((1, None), order=2))
    decode(s, "a", steps=2)
    s.requeue("a")
    assert s.head(2) == ["a", "b"]


def test_a_stamp_without_itinerary_is_recorded_as_it_always_was() -> None:
    """Decision traces of the other policies do not change."""
    log: list[tuple[str, dict[str, object]]] = []
    s = scheduler(log=log)
    s.arrive("a", CallStamp("A", priority_ms=1.0))
    assert log[-1][1]["stamp"] == {
        "program": "A",
        "thread": "",
        "priority_ms": 1.0,
        "program_wait_ms": 0.0,
        "program_service_ms": 0.0,
    }
    s.arrive("b", going((1, 2.0), (0, None), order=4))
    stamp = log[-1][1]["stamp"]
    assert isinstance(stamp, dict)
    assert (stamp["itinerary"], stamp["order"]) == (((1, 2.0), (0, None)), 4)


def own_levels(service_ms: float) -> Itinerary:
    """The policy's levels and quanta, spelled out."""
    first = LEVELS.level_of(service_ms)
    quanta = [None if math.isinf(quantum) else quantum for quantum in LEVELS.quanta_ms]
    return tuple(enumerate(quanta))[first:]


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(1, 4)), max_size=60))
def test_an_itinerary_of_the_policys_own_levels_decides_as_none_does(
    events: list[tuple[int, bool, int]],
) -> None:
    plain, spelled = scheduler(), scheduler()
    for number, (service, admits, steps) in enumerate(events):
        stamp = CallStamp(f"P{service}", "", float(service), service / 2, float(service))
        legs = own_levels(service)
        spelled_stamp = CallStamp(
            f"P{service}", "", float(service), service / 2, float(service), legs
        )
        for s, its in ((plain, stamp), (spelled, spelled_stamp)):
            s.arrive(f"c{number}", its)
            if admits:
                s.admit(next(iter(s.waiting())))
            running = [f"c{i}" for i in range(number + 1) if not s.call(f"c{i}").waiting]
            decode(s, *running, steps=steps)
            if running and number % 3 == 0:
                s.requeue(running[-1])
        for i in range(number + 1):
            one, other = plain.call(f"c{i}"), spelled.call(f"c{i}")
            assert (one.key, one.quantum_left_ms) == (other.key, other.quantum_left_ms)
