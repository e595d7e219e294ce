"""Play a workload against a server, open loop: programs come when the trace says, ready or not.

    arrival ----> root calls ----> ... a call is sent when all its parents have ended and its
                                   tool or human has taken its time ----> the last one ends

A prompt repeats the context of the call it extends, that is, its prompt and the tokens the server
really generated, and adds tokens of its own: what a prefix cache can find is there to be found.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Protocol

from autellix_sgl.workloads import ProgramTrace, Workload
from bench.records import Answer, CallRecord, ProgramRecord

# Within any current model's vocabulary, and past the control tokens at its start.
TOKEN_IDS = range(1_000, 30_000)


class ReplayError(RuntimeError):
    """The server did not do what the trace asks; the run is worth nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as it is sent. ``last``: no other call of the program will be sent after it."""

    program: str
    thread: str
    prompt: Sequence[int]
    output_tokens: int
    last: bool


class Clock(Protocol):
    """Seconds since the replay began."""

    def now(self) -> float: ...

    async def sleep_until(self, when_s: float) -> None: ...


class WallClock:
    """The monotonic clock, from zero. Not the event loop's: uvloop counts whole milliseconds."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._start_s

    async def sleep_until(self, when_s: float) -> None:
        # Against the absolute time: no sum of small delays moves the schedule.
        while (left_s := when_s - self.now()) > 0:
            await asyncio.sleep(left_s)


class Log(Protocol):
    """Where records go as calls and programs finish."""

    def call(self, record: CallRecord) -> None: ...

    def program(self, record: ProgramRecord) -> None: ...


Send = Callable[[Call], Awaitable[Answer]]


class Prompts:
    """The tokens of a trace, the same for every system: a seed and a name give them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def tokens(self, name: str, count: int) -> list[int]:
        """The first *count* tokens of the text called *name*."""
        return Random(f"{self._seed}/{name}").choices(TOKEN_IDS, k=count)


async def replay(
    workload: Workload, prompts: Prompts, send: Send, log: Log, clock: Clock | None = None
) -> float:
    """Play *workload* to its end; returns when the last program ended, in seconds.

    Raises ReplayError when an answer has another length than the trace, and whatever *send* does.
    """
    clock = clock or WallClock()
    runs = [_ProgramRun(program, prompts, send, log, clock) for program in workload.programs]
    try:
        async with asyncio.TaskGroup() as group:
            for run in runs:
                group.create_task(run.play())
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return max(run.end_s for run in runs)


def _first(error: BaseException) -> BaseException:
    """The first error in a group of groups; the others are its consequences."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _ProgramRun:
    """One program under way."""

    def __init__(
        self, trace: ProgramTrace, prompts: Prompts, send: Send, log: Log, clock: Clock
    ) -> None:
        self._trace = trace
        self._prompts = prompts
        self._send = send
        self._log = log
        self._clock = clock
        self._contexts: list[list[int]] = [[] for _ in trace.calls]
        self._parents_left = [len(call.parents) for call in trace.calls]
        self._children: list[list[int]] = [[] for _ in trace.calls]
        for index, call in enumerate(trace.calls):
            for parent in call.parents:
                self._children[parent].append(index)
        self._unsent = len(trace.calls)
        self.end_s = 0.0

    async def play(self) -> None:
        """From the program's arrival to the end of its last call."""
        trace, arrival_s = self._trace, self._trace.arrival_ms / 1e3
        await self._clock.sleep_until(arrival_s)
        async with asyncio.TaskGroup() as group:
            for index, left in enumerate(self._parents_left):
                if not left:
                    group.create_task(self._call(group, index, arrival_s))
        self._log.program(
            ProgramRecord(
                program=trace.id,
                kind=trace.kind,
                calls=len(trace.calls),
                output_tokens=trace.output_tokens,
                arrival_s=arrival_s,
                end_s=self.end_s,
            )
        )

    async def _call(self, group: asyncio.TaskGroup, index: int, ready_s: float) -> None:
        """One call, whose parents had ended at *ready_s*; starts the calls that waited for it."""
        traced = self._trace.calls[index]
        due_s = ready_s + (traced.interrupt.duration_ms / 1e3 if traced.interrupt else 0.0)
        await self._clock.sleep_until(due_s)
        prompt = self._prompt(index)
        self._unsent -= 1
        call = Call(
            program=self._trace.id,
            thread=traced.thread,
            prompt=prompt,
            output_tokens=traced.output_tokens,
            last=not self._unsent,
        )
        sent_s = self._clock.now()
        answer = await self._send(call)
        self.end_s = self._clock.now()
        self._record(index, answer, due_s, sent_s)
        self._contexts[index] = [*prompt, *answer.output_ids]
        for child in self._children[index]:
            self._parents_left[child] -= 1
            if not self._parents_left[child]:
                group.create_task(self._call(group, child, self.end_s))

    def _prompt(self, index: int) -> list[int]:
        call, name = self._trace.calls[index], f"{self._trace.id}/{index}"
        if call.extends is None:
            head = self._prompts.tokens(f"system:{call.system}", call.shared_tokens)
        else:
            head = self._contexts[call.extends][: call.shared_tokens]
        return head + self._prompts.tokens(name, call.new_tokens)

    def _record(self, index: int, answer: Answer, due_s: float, sent_s: float) -> None:
        call = self._trace.calls[index]
        if len(answer.output_ids) != call.output_tokens:
            raise ReplayError(
                f"program {self._trace.id}, call {index}: asked for {call.output_tokens} tokens, "
                f"the server returned {len(answer.output_ids)}"
            )
        reported = asdict(answer)
        del reported["output_ids"]
        self._log.call(
            CallRecord(
                program=self._trace.id,
                call=index,
                due_s=due_s,
                sent_s=sent_s,
                end_s=self.end_s,
                prompt_tokens=call.prompt_tokens,
                output_tokens=call.output_tokens,
                **reported,
            )
        )
