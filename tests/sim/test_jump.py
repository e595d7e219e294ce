"""A jump over identical decode steps decides as the single steps do."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import CallStamp, CostModel, Levels, StepWork, policy_named
from autellix_sgl.sim.jump import JumpingScheduler, decode_run_ms, steps_within

# Powers of two: sums are exact, so equal decisions are equal numbers, not nearly equal ones.
EXACT = CostModel(1.0, 0.25, 0.5, 0.125)


def scheduler(record: list[object] | None = None) -> JumpingScheduler:
    levels = Levels((4.0, 16.0, 64.0), (4.0, 12.0, 48.0, math.inf))
    return JumpingScheduler(
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


@given(st.integers(0, 200), st.integers(1, 4), st.floats(0.0, 500.0))
def test_a_time_is_reached_by_as_few_steps_as_can_be(context: int, calls: int, ms: float) -> None:
    """And at least one; but for rounding."""
    work = StepWork(decodes=("c",) * calls, context_tokens=context)
    steps = steps_within(EXACT, work, ms)
    assert sum(decode_run_ms(EXACT, work, steps)) >= ms - 1e-6
    assert steps == 1 or sum(decode_run_ms(EXACT, work, steps - 1)) < ms + 1e-6
