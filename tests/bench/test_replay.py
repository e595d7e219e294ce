"""A replay keeps to the trace: dependencies, pauses, arrivals, prompts and lengths."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from heapq import heappop, heappush
from typing import Any

import pytest

from autellix_sgl.workloads import TOOL, Interrupt, ProgramBuilder, ProgramTrace, Workload, at_times
from bench.records import Answer, CallRecord, ProgramRecord
from bench.replay import Call, Prompts, ReplayError, replay

SERVICE_S = 1.0


class JumpClock:
    """Time stands still while anything can run, then jumps to whoever sleeps shortest."""

    def __init__(self) -> None:
        self._now = 0.0
        self._number = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    async def sleep_until(self, when_s: float) -> None:
        if when_s > self._now:
            self._number += 1
            woken = asyncio.get_running_loop().create_future()
            heappush(self._sleepers, (when_s, self._number, woken))
            await woken

    async def drive(self, work: Coroutine[Any, Any, float]) -> float:
        task = asyncio.ensure_future(work)
        while not task.done():
            for _ in range(20):
                await asyncio.sleep(0)
            if self._sleepers and not task.done():
                self._now, _, woken = heappop(self._sleepers)
                if not woken.done():
                    woken.set_result(None)
        return await task


class World:
    """A server that serves every call in one second, and what was asked of it."""

    def __init__(self, *, tokens_short: int = 0) -> None:
        self.clock = JumpClock()
        self.sent: list[Call] = []
        self.calls: list[CallRecord] = []
        self.programs: list[ProgramRecord] = []
        self._tokens_short = tokens_short

    async def send(self, call: Call) -> Answer:
        self.sent.append(call)
        number = len(self.sent)
        await self.clock.sleep_until(self.clock.now() + SERVICE_S)
        # Tokens that no prompt could guess: whoever repeats them got them from here.
        return Answer(output_ids=[-number] * (call.output_tokens - self._tokens_short))

    def call(self, record: CallRecord) -> None:
        self.calls.append(record)

    def program(self, record: ProgramRecord) -> None:
        self.programs.append(record)

    def play(
        self, *programs: ProgramTrace, arrivals_s: tuple[float, ...] = (), seed: int = 1
    ) -> float:
        times = arrivals_s or (0.0,) * len(programs)
        workload: Workload = at_times("test", programs, [time * 1e3 for time in times])
        work = replay(workload, Prompts(seed), self.send, self, self.clock)
        return asyncio.run(self.clock.drive(work))

    def sent_s(self, program: str) -> dict[int, float]:
        return {record.call: record.sent_s for record in self.calls if record.program == program}


def diamond(name: str = "p") -> ProgramTrace:
    """Call 0, then 1 (after a tool of 0.5 s) and 2, then 3 after both."""
    program = ProgramBuilder(name, "diamond")
    root = program.fresh(5, 2, system="shared", system_tokens=10)
    tool = program.extend(root, 3, 2, interrupt=Interrupt(TOOL, 500.0))
    other = program.extend(root, 4, 3)
    program.extend(other, 1, 2, parents=(tool, other), shared_tokens=12)
    return program.build()


def test_a_call_waits_for_all_its_parents_and_for_its_tool() -> None:
    world = World()
    end_s = world.play(diamond())
    assert world.sent_s("p") == {0: 0.0, 1: 1.5, 2: 1.0, 3: 2.5}
    assert end_s == 3.5


def test_programs_come_on_schedule_whatever_the_server_does() -> None:
    """Open loop: nobody waits for an earlier program; the response counts from the schedule."""
    world = World()
    world.play(diamond("a"), diamond("b"), diamond("c"), arrivals_s=(0.25, 0.5, 7.0))
    first = {name: world.sent_s(name)[0] for name in "abc"}
    assert first == {"a": 0.25, "b": 0.5, "c": 7.0}
    assert [record.response_s for record in world.programs] == [3.5, 3.5, 3.5]


def test_a_prompt_repeats_what_was_really_generated() -> None:
    """Every prompt is the trace's pieces, with the server's own tokens for the outputs."""
    world, trace = World(), diamond()
    world.play(trace)
    order = [0, 2, 1, 3]  # as sent: call 2 does not wait for a tool
    outputs = {call: [-(number + 1)] for number, call in enumerate(order)}
    prompts = Prompts(1)
    for number, index in enumerate(order):
        expected: list[int] = []
        for source, start, stop in trace.pieces(index):
            name = source.removesuffix("/prompt")
            if source.endswith("/output"):
                text = outputs[int(source.split("/")[1])] * stop
            else:
                text = prompts.tokens(name, stop)
            expected += text[start:stop]
        assert world.sent[number].prompt == expected
        assert len(expected) == trace.calls[index].prompt_tokens


def test_every_system_gets_the_same_prompts_and_programs_share_their_system_prompt() -> None:
    one, other, different = World(), World(), World()
    one.play(diamond("a"), diamond("b"))
    other.play(diamond("a"), diamond("b"))
    different.play(diamond("a"), diamond("b"), seed=2)
    assert [call.prompt for call in one.sent] == [call.prompt for call in other.sent]
    assert one.sent[0].prompt[:10] == one.sent[1].prompt[:10]
    assert one.sent[0].prompt[10:] != one.sent[1].prompt[10:]
    assert one.sent[0].prompt != different.sent[0].prompt


def test_only_the_call_that_is_sent_last_says_that_its_program_ends() -> None:
    world = World()
    world.play(diamond())
    assert [call.last for call in world.sent] == [False, False, False, True]


def test_an_answer_of_another_length_fails_the_run() -> None:
    world = World(tokens_short=1)
    with pytest.raises(ReplayError, match=r"program p, call 0: asked for 2 tokens, .* returned 1"):
        world.play(diamond(), diamond("q"), arrivals_s=(0.0, 50.0))
    assert world.clock.now() < 50


def test_a_wall_clock_never_wakes_early() -> None:
    """What is sent before it is due would make a tool faster than it was."""
    trace = diamond()
    records: list[CallRecord] = []

    class Log:
        def call(self, record: CallRecord) -> None:
            records.append(record)

        def program(self, record: ProgramRecord) -> None:
            pass

    async def send(call: Call) -> Answer:
        return Answer(output_ids=[7] * call.output_tokens)

    workload = at_times("test", [trace], [20.0])
    asyncio.run(replay(workload, Prompts(1), send, Log()))
    assert records[0].sent_s >= 0.02
    assert all(record.sent_s >= record.due_s for record in records)
