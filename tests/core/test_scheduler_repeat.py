"""A jump over identical decode steps decides as the single steps do."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import CallScheduler, CallStamp, CostModel, Levels, StepWork, policy_named

# Powers of two: sums are exact, so equal decisions are equal numbers, not nearly equal ones.
EXACT = CostModel(1.0, 0.25, 0.5, 0.125)


def scheduler(record: list[object] | None = None) -> CallScheduler:
    levels = Levels((4.0, 16.0, 64.0), (4.0, 12.0, 48.0, math.inf))
    return CallScheduler(
        policy_named("plas"),
        levels,
        EXACT,
        starvation_ratio=2.0,
        interval=4,
        record=None if record is None else lambda event, fields: record.append((event, fields)),
    )


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
)
def test_a_jump_equals_its_steps(services: list[int], jumps: list[int]) -> None:
    """Levels, tickets, quanta, clocks and pass counts are equal after every jump."""
    whole, single = scheduler(), scheduler()
    calls = tuple(f"c{i}" for i in range(len(services)))
    for s in (whole, single):
        for call, service in zip(calls, services, strict=True):
            s.arrive(call, CallStamp(call, priority_ms=float(service)))
            s.admit(call)
        s.arrive("waits", CallStamp("W", priority_ms=100.0, program_service_ms=100.0))
    context = 10 * len(calls)
    for jump in jumps:
        whole.step(StepWork(decodes=calls, context_tokens=context), repeat=jump)
        for number in range(jump):
            grown = context + number * len(calls)
            single.step(StepWork(decodes=calls, context_tokens=grown))
        context += jump * len(calls)
        assert [whole.call(c) for c in calls] == [single.call(c) for c in calls]
        assert whole.clock_ms == single.clock_ms
        assert whole.pass_due == single.pass_due
        assert whole.steps_to_pass == single.steps_to_pass
        assert whole.promote_starving() == single.promote_starving()


def test_a_jump_is_recorded_once_with_its_length() -> None:
    """And a single step is recorded as before."""
    log: list[object] = []
    s = scheduler(log)
    s.step(StepWork())
    s.step(StepWork(), repeat=3)
    assert log[1:] == [
        ("step", {"work": StepWork(), "clock_ms": 1.0}),
        ("step", {"work": StepWork(), "clock_ms": 4.0, "repeat": 3}),
    ]


def test_only_decodes_repeat() -> None:
    """A prefill is one step's work."""
    with pytest.raises(ValueError, match="only decode"):
        scheduler().step(StepWork(prefills=(("a", 3),)), repeat=2)


def test_the_next_promotion_is_known_before_it_is_due() -> None:
    """(W + w) / (T + t) = 2 with T = 7 is reached after 14 ms."""
    s = scheduler()
    assert s.next_promotion_ms == math.inf
    s.arrive("a", CallStamp("A", priority_ms=7.0, program_service_ms=7.0))
    assert s.next_promotion_ms == 14.0
    s.step(StepWork(), repeat=14)
    assert s.promote_starving() == ["a"]
    assert s.next_promotion_ms == math.inf
