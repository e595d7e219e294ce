"""An agent program as data: a DAG of LLM calls, what each prompt repeats, and what happens between.

Lengths are tokens, durations milliseconds of wall clock. A prompt is never text: it is a prefix of
an earlier context followed by tokens of its own, which is all that prefix caching can see.

    call 0   [ system prompt | new 0 ] output 0
    call 1   [ system prompt | new 0 | output 0 | new 1 ] output 1        extends 0, append-only
    call 2   [ system prompt | new 0 | new 2 ] output 2                   extends 0, shares less
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autellix_sgl.errors import ConfigError

TOOL = "tool"
HUMAN = "human"


@dataclass(frozen=True, slots=True)
class Interrupt:
    """What a program waits for outside the model: a tool or a human; wall clock."""

    kind: str
    duration_ms: float

    def __post_init__(self) -> None:
        if self.kind not in (TOOL, HUMAN):
            raise ConfigError(f"interrupt: kind must be {TOOL!r} or {HUMAN!r}, got {self.kind!r}")
        if not 0 <= self.duration_ms < float("inf"):
            raise ConfigError(f"interrupt: duration_ms must be >= 0, got {self.duration_ms}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedCall:
    """One LLM call of a program; calls are named by their place in ``ProgramTrace.calls``.

    The call arrives ``interrupt`` after the last of its ``parents`` ends (a root: when the program
    does). Its prompt repeats the first ``shared_tokens`` of the context (prompt and output) of call
    ``extends``, or, when that is None, of the system prompt named ``system``; then come
    ``new_tokens`` of its own. Programs that name the same system prompt share its tokens.
    """

    new_tokens: int
    output_tokens: int
    shared_tokens: int = 0
    extends: int | None = None
    system: str = ""
    parents: tuple[int, ...] = ()
    thread: str = ""
    interrupt: Interrupt | None = None

    def __post_init__(self) -> None:
        if self.output_tokens < 1:
            raise ConfigError(f"call: output_tokens must be at least 1, got {self.output_tokens}")
        if self.shared_tokens < 0 or self.new_tokens < 0 or self.prompt_tokens < 1:
            raise ConfigError(
                f"call: a prompt of {self.shared_tokens} shared + {self.new_tokens} new tokens "
                "is impossible"
            )

    @property
    def prompt_tokens(self) -> int:
        return self.shared_tokens + self.new_tokens

    @property
    def context_tokens(self) -> int:
        """Prompt and output: what a later call can repeat."""
        return self.prompt_tokens + self.output_tokens

    @property
    def prefill_tokens(self) -> int:
        """What the prompt adds to the program: all of it for a root, else the new tokens."""
        return self.prompt_tokens if self.extends is None else self.new_tokens


@dataclass(frozen=True, slots=True)
class ProgramTrace:
    """One program. ``kind`` names its workload; calls are in an order their parents allow.

    ``tenant`` is whose it is; ``fresh`` says that each of its calls names another program.
    """

    id: str
    kind: str
    calls: tuple[TracedCall, ...]
    arrival_ms: float = 0.0
    tenant: str = ""
    fresh: bool = False

    def __post_init__(self) -> None:
        if not self.calls:
            raise ConfigError(f"program {self.id}: has no calls")
        for index, call in enumerate(self.calls):
            self._check(index, call)

    def _check(self, index: int, call: TracedCall) -> None:
        where = f"program {self.id}: call {index}"
        if any(not 0 <= parent < index for parent in call.parents):
            raise ConfigError(f"{where}: parents {call.parents} must be earlier calls")
        if call.extends is None:
            return
        if not self.is_ancestor(call.extends, index):
            raise ConfigError(f"{where}: extends call {call.extends}, which is no ancestor of it")
        available = self.calls[call.extends].context_tokens
        if call.shared_tokens > available:
            raise ConfigError(
                f"{where}: shares {call.shared_tokens} tokens of a context of {available}"
            )

    def is_ancestor(self, ancestor: int, index: int) -> bool:
        """Whether call *index* cannot arrive before call *ancestor* has ended."""
        frontier, seen = list(self.calls[index].parents), [False] * index
        while frontier:
            call = frontier.pop()
            if call == ancestor:
                return True
            if call > ancestor and not seen[call]:
                seen[call] = True
                frontier.extend(self.calls[call].parents)
        return False

    @property
    def output_tokens(self) -> int:
        """What the program generates, over all threads."""
        return sum(call.output_tokens for call in self.calls)

    def pieces(self, index: int) -> list[tuple[str, int, int]]:
        """Call *index*'s prompt as (source, from, to) runs of tokens, first to last.

        A source is ``system:NAME``, ``PROGRAM/CALL/prompt`` or ``PROGRAM/CALL/output``; equal runs
        are equal tokens. A replay on a real engine makes its text from them.
        """
        call = self.calls[index]
        if call.extends is None:
            head = [(f"system:{call.system}", 0, call.shared_tokens)]
        else:
            parent = self.calls[call.extends]
            whole = [
                *self.pieces(call.extends),
                (f"{self.id}/{call.extends}/output", 0, parent.output_tokens),
            ]
            head = _first(whole, call.shared_tokens)
        return [
            p for p in (*head, (f"{self.id}/{index}/prompt", 0, call.new_tokens)) if p[2] > p[1]
        ]


def _first(pieces: Sequence[tuple[str, int, int]], tokens: int) -> list[tuple[str, int, int]]:
    """The leading *tokens* of a run of pieces."""
    kept: list[tuple[str, int, int]] = []
    for source, start, stop in pieces:
        if tokens <= 0:
            break
        kept.append((source, start, min(stop, start + tokens)))
        tokens -= stop - start
    return kept


@dataclass(frozen=True, slots=True)
class Workload:
    """Programs and how they come: at their ``arrival_ms``, or in a closed loop.

    With ``concurrency`` N the first N start at once and each of the others when one ends; their
    ``arrival_ms`` means nothing then. ``source`` says how to make the workload again.
    """

    name: str
    programs: tuple[ProgramTrace, ...]
    concurrency: int | None = None
    source: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"workload: concurrency must be at least 1, got {self.concurrency}")
        if len({program.id for program in self.programs}) != len(self.programs):
            raise ConfigError("workload: two programs have the same id")

    @property
    def num_calls(self) -> int:
        return sum(len(program.calls) for program in self.programs)
