"""Which programs are let in when the pool cannot hold them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autellix_sgl.core import CallScheduler, CallStamp, CostModel, Levels, StepWork, policy_named
from autellix_sgl.core.memory.program_memory import ProgramMemory

POOL = 1000
# A step is 1 ms, a token of prefill 0.1: the pool is filled in 100 ms.
MODEL = CostModel(1.0, 0.1)


class Server:
    """A scheduler with admission, and whole calls; a program's service follows its calls'."""

    def __init__(self, pool: int = POOL, *, beta: float = 0.0) -> None:
        self.calls = CallScheduler(
            policy_named("plas"),
            Levels.geometric(6, 10.0, 2.0),
            MODEL,
            starvation_ratio=beta,
            interval=4,
            memory=ProgramMemory(pool, MODEL, admission=True),
        )
        self.service: dict[str, float] = {}
        self.prompts: dict[str, int] = {}
        self.made = 0

    def arrive(self, program: str, tokens: int) -> str:
        self.made += 1
        call, service = f"{program}{self.made}", self.service.get(program, 0.0)
        stamp = CallStamp(program, "", service, 0.0, service)
        self.calls.arrive(call, stamp, tokens)
        self.prompts[call] = tokens
        self.calls.admit_programs()
        return call

    def admit(self, call: str, cached: int = 0) -> None:
        self.calls.admit(call, self.prompts.get(call, 1), cached)

    def step(self, ms: float, *running: str) -> None:
        for _ in range(int(ms)):
            self.calls.step(StepWork((), running))

    def finish(self, call: str, tokens: int) -> None:
        program = self.calls.call(call).stamp.program
        done = self.calls.remove(call, tokens)
        self.service[program] = self.service.get(program, 0.0) + done.service_ms
        self.calls.admit_programs()

    def run(self, program: str, tokens: int, ms: float = 1) -> None:
        """A call from beginning to end, with a context of *tokens*."""
        call = self.arrive(program, tokens)
        self.admit(call)
        self.step(ms, call)
        self.finish(call, tokens)

    def learn_short_gaps(self, program: str, tokens: int) -> None:
        """The program comes back at once, again and again."""
        for _ in range(200):
            self.run(program, tokens, ms=2)

    @property
    def offered(self) -> list[str]:
        return list(self.calls.offered())


def test_programs_that_fit_are_let_in_and_the_next_one_waits() -> None:
    server = Server()
    first, second, third = (server.arrive(program, 400) for program in "pqr")
    assert server.offered == [first, second]
    assert list(server.calls.waiting()) == [first, second, third]
    assert server.calls.num_held == 1
    assert server.calls.head(10) == [first, second]


def test_the_end_of_a_program_lets_the_next_one_in() -> None:
    server = Server()
    first = server.arrive("p", 600)
    server.admit(first)
    waiting = server.arrive("q", 600)
    assert server.offered == []
    server.finish(first, 650)
    server.calls.end_program("p")
    server.calls.admit_programs()
    assert server.offered == [waiting]


def test_a_program_too_large_for_the_pool_runs_when_nobody_else_does() -> None:
    """Admission never idles the machine."""
    server = Server()
    large, small = server.arrive("large", 5 * POOL), server.arrive("small", 10)
    assert server.offered == [large]
    server.admit(large)
    server.finish(large, 5 * POOL)
    assert server.offered == [small]


def test_the_calls_of_a_program_that_is_in_are_never_held() -> None:
    server = Server()
    server.admit(server.arrive("p", 500))
    server.arrive("q", 600)
    more = server.arrive("p", 550)
    assert server.offered == [more]


def test_an_idle_program_that_is_expected_back_keeps_its_place() -> None:
    """All gaps seen are short, so one that has just begun is kept for."""
    server = Server()
    server.learn_short_gaps("p", 600)
    other = server.arrive("busy", 10)
    server.admit(other)
    held = server.arrive("q", 600)
    assert held not in server.offered


def test_an_idle_program_that_is_overdue_makes_room() -> None:
    server = Server()
    server.learn_short_gaps("p", 600)
    other = server.arrive("busy", 10)
    server.admit(other)
    held = server.arrive("q", 600)
    server.step(100_000, other)
    server.calls.admit_programs()
    assert server.offered == [held]


def test_a_better_program_takes_the_place_of_one_that_has_had_its_recompute_several_times() -> None:
    """600 tokens cost 60 ms to compute; after 300 ms of service it may be displaced."""
    server = Server()
    worse = server.arrive("p", 600)
    server.admit(worse)
    server.step(100, worse)
    better = server.arrive("q", 600)
    assert server.offered == []
    server.step(200, worse)
    server.calls.admit_programs()
    assert server.offered == [better]
    server.finish(worse, 650)
    back = server.arrive("p", 650)
    assert server.offered == [better]
    assert server.calls.num_held == 1
    server.admit(better)
    server.finish(better, 600)
    server.calls.end_program("q")
    server.calls.admit_programs()
    assert server.offered == [back]


def test_a_program_of_the_same_level_waits_longer_for_a_place_but_not_for_ever() -> None:
    """600 tokens cost 60 ms to compute; equals make way after 32 times that, to who came before."""
    server = Server()
    server.service.update(p=1e5, q=1e5)
    server.learn_short_gaps("p", 600)
    server.admit(server.arrive("busy", 10))
    first = server.arrive("p", 600)
    server.admit(first)
    held = server.arrive("q", 600)
    server.step(1400, first)
    server.finish(first, 600)
    again = server.arrive("p", 600)
    assert server.offered == [again]
    server.admit(again)
    server.step(200, again)
    server.calls.admit_programs()
    assert server.offered == [held]


def test_when_contexts_outgrow_the_pool_the_worst_program_leaves() -> None:
    """Its call that runs is let finish; its next one waits."""
    server = Server()
    old = server.arrive("old", 400)
    server.admit(old)
    server.step(50, old)
    new = server.arrive("new", 400)
    server.admit(new)
    server.finish(new, 450)
    server.admit(server.arrive("new", 450))
    more = server.calls.arrive("old-2", CallStamp("old", "other"), 800).id
    server.calls.admit_programs()
    assert more not in server.offered
    assert old in server.calls


def test_a_starving_call_that_is_held_is_promoted_and_let_in_first() -> None:
    server = Server(beta=1.0)
    running = server.arrive("busy", 800)
    server.admit(running)
    server.service.update(old=100.0, young=15.0)
    old, young = server.arrive("old", 700), server.arrive("young", 700)
    assert server.calls.num_held == 2
    server.step(90, running)
    server.calls.promote_starving()  # young: 90 ms of waiting against 15 of service
    server.step(20, running)
    server.calls.promote_starving()  # and now old
    assert server.calls.call(old).level == server.calls.call(young).level == 0
    server.finish(running, 800)
    server.calls.end_program("busy")
    server.calls.admit_programs()
    assert server.offered == [young]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "admit", "step", "finish", "end", "requeue", "promote"]),
        st.integers(0, 5),
        st.integers(1, 700),
    ),
    max_size=100,
)


@settings(deadline=None)
@given(EVENTS)
def test_admission_loses_no_call_and_never_idles_the_machine(
    events: list[tuple[str, int, int]],
) -> None:
    server = Server(beta=2.0)
    for event, which, tokens in events:
        play(server, event, which, tokens)
        server.calls.admit_programs()
        server.calls.check()
        memory = server.calls.memory
        assert isinstance(memory, ProgramMemory)
        memory.sets.check()
        if server.calls.num_waiting and not server.calls.num_running:
            assert server.offered, "calls wait, nothing runs, and none is offered"


@settings(deadline=None)
@given(EVENTS)
def test_every_call_is_let_in_at_last(events: list[tuple[str, int, int]]) -> None:
    """Once nothing new comes, running what is offered empties the server."""
    server = Server(beta=2.0)
    for event, which, tokens in events:
        play(server, event, which, tokens)
    for call in running(server):
        server.finish(call, 10)
    for _ in range(len(events)):
        server.calls.admit_programs()
        for call in server.offered[:1]:
            server.admit(call)
            server.finish(call, 10)
    assert server.calls.num_waiting == 0


def running(server: Server) -> Iterator[str]:
    yield from list(server.calls._running)


def play(server: Server, event: str, which: int, tokens: int) -> None:
    calls, active = server.calls, list(running(server))
    if event == "arrive":
        server.arrive(f"p{which}", tokens)
    elif event == "admit" and server.offered:
        server.admit(server.offered[0], tokens // 3)
    elif event == "step" and active:
        server.step(1 + which, *active)
    elif event == "finish" and active:
        server.finish(active[which % len(active)], tokens)
    elif event == "requeue" and active:
        calls.requeue(active[which % len(active)])
    elif event == "end":
        calls.end_program(f"p{which}")
    elif event == "promote":
        calls.promote_starving()


@pytest.mark.parametrize("pool", [1, 10_000_000])
def test_any_pool_serves(pool: int) -> None:
    server = Server(pool)
    for program in "pqr":
        server.run(program, 100)
    assert server.calls.num_waiting == 0
