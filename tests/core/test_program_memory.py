"""What the contexts that programs leave are worth: the least leaves the pool first."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from autellix_sgl.core import (
    CallScheduler,
    CallStamp,
    CostModel,
    Levels,
    ProgramMemory,
    StepWork,
    policy_named,
)

MODEL = CostModel(1.0, 0.1)


def scheduler(pool: int = 10_000, *, admission: bool = False) -> CallScheduler:
    return CallScheduler(
        policy_named("plas"),
        Levels.geometric(6, 10.0, 2.0),
        MODEL,
        interval=4,
        memory=ProgramMemory(pool, MODEL, admission=admission),
    )


def called(calls: CallScheduler, program: str, *, ms: int = 1, kind: str = "") -> float:
    """A whole call of 100 tokens; returns when its context was left."""
    stamp = CallStamp(program, kind=kind)
    call = calls.arrive(f"{program}-{calls.clock_ms}", stamp, 100).id
    calls.admit_programs()
    calls.admit(call, 100)
    decode(calls, call, ms)
    calls.remove(call, 100)
    return calls.clock_ms


def pause(calls: CallScheduler, ms: int) -> None:
    """Time passes: steps of somebody else."""
    decode(calls, "other", ms)


def decode(calls: CallScheduler, call: str, ms: int) -> None:
    """A step is 1 ms."""
    for _ in range(ms):
        calls.step(StepWork((), (call,)))


def order(calls: CallScheduler, used: dict[str, float]) -> list[str]:
    """Programs in the order in which their contexts leave."""
    return sorted(used, key=lambda program: calls.worth(program, "", used[program]))


def test_what_an_ended_program_left_goes_first() -> None:
    calls = scheduler()
    used = {program: called(calls, program) for program in ("old", "ended")}
    calls.end_program("ended")
    assert order(calls, used) == ["ended", "old"]


def test_a_program_that_ends_while_it_runs_is_over_with_its_last_call() -> None:
    calls = scheduler()
    used = {"old": called(calls, "old"), "new": 0.0}
    calls.arrive("last", CallStamp("new"), 100)
    calls.end_program("new")
    assert order(calls, used) == ["old", "new"]
    calls.admit("last", 100)
    calls.remove("last", 100)
    assert order(calls, used) == ["new", "old"]


def test_a_program_whose_call_waits_outlives_one_that_is_between_calls() -> None:
    calls = scheduler()
    used = {program: called(calls, program) for program in ("waits", "idle")}
    calls.arrive("next", CallStamp("waits"), 100)
    assert order(calls, used) == ["idle", "waits"]


def test_of_waiting_calls_the_last_in_the_queue_loses_its_context_first() -> None:
    calls = scheduler()
    used = {program: called(calls, program) for program in ("p", "q", "r")}
    for program in ("q", "p", "r"):
        calls.arrive(f"{program}-next", CallStamp(program), 100)
    assert order(calls, used) == ["r", "p", "q"]


def test_each_kind_is_expected_back_by_its_own_gaps() -> None:
    """Of two programs that have been quiet for as long, the one whose kind asks people goes."""
    calls = scheduler()
    for _ in range(100):
        called(calls, "tools", kind="agent")
        for turn in range(3):
            called(calls, f"talk {turn}", kind="chat")
            pause(calls, 2000)
        called(calls, "tools", kind="agent")
    used = {"agent": called(calls, "agent", kind="agent")}
    used["chat"] = called(calls, "chat", kind="chat")
    assert order(calls, used) == ["chat", "agent"]


def test_a_program_that_is_overdue_goes_before_one_that_has_just_left() -> None:
    calls = scheduler()
    for _ in range(100):
        called(calls, "tools")
    used = {"overdue": called(calls, "overdue")}
    pause(calls, 50_000)
    used["fresh"] = called(calls, "fresh")
    assert order(calls, used) == ["overdue", "fresh"]


def test_what_nobody_in_particular_uses_goes_by_its_last_use() -> None:
    calls = scheduler()
    pause(calls, 100)
    assert calls.worth(None, "", 10.0) < calls.worth(None, "", 90.0)


def test_programs_that_are_not_let_in_lose_theirs_before_those_that_are() -> None:
    """A held call is next in its own queue, and still has to wait for room."""
    calls = scheduler(200, admission=True)
    used = {"out": called(calls, "out")}
    pause(calls, 10_000)
    for program in ("in", "busy"):
        call = calls.arrive(program, CallStamp(program), 150).id
        calls.admit_programs()
        if program == "in":
            calls.admit(call, 150)
            used["in"] = calls.clock_ms
    calls.arrive("again", CallStamp("out"), 100)
    calls.admit_programs()
    assert calls.num_held == 2
    assert order(calls, used) == ["out", "in"]


def test_without_a_memory_contexts_go_by_their_last_use_and_nobody_is_held() -> None:
    """Of whichever program, over or not."""
    calls = CallScheduler(policy_named("plas"), Levels.single(), MODEL)
    used = {program: called(calls, program) for program in "pqr"}
    calls.end_program("r")
    assert order(calls, used) == ["p", "q", "r"]
    for program in "pqr":
        calls.arrive(program, CallStamp(program), 10**9)
    calls.admit_programs()
    calls.review_programs()
    assert list(calls.offered()) == ["p", "q", "r"]
    assert calls.num_held == 0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("pqr"), st.integers(1, 300), st.booleans()), max_size=30),
    st.booleans(),
)
def test_asking_changes_nothing(events: list[tuple[str, int, bool]], admission: bool) -> None:
    """Ranks that evict at different moments agree on whom they admit."""
    asked, silent = scheduler(250, admission=admission), scheduler(250, admission=admission)
    for program, ms, ends in events:
        for calls in (asked, silent):
            called(calls, program, ms=ms)
            if ends:
                calls.end_program(program)
        asked.worth(program, "", asked.clock_ms)
    assert all(asked.worth(p, "", 0.0) == silent.worth(p, "", 0.0) for p in "pqr")
