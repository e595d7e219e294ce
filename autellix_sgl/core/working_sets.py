"""How much KV the programs of one scheduler stand on. Only counts are kept, no tokens.

A program's working set is what its next calls will repeat: the latest context of each of its
threads, as far as they have been heard of lately. What a thread's first call found in the cache is
shared with other programs (a system prompt) or belongs to the thread it left, so it is not the
thread's own. Of what programs share, the longest part is counted, once for all of them. Times are
the scheduler's modelled milliseconds.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

# Programs without a call whose sizes are kept; the longest idle goes first.
MAX_IDLE_PROGRAMS = 16_384


@dataclass(slots=True)
class Thread:
    """``own``: tokens of its latest context beyond the ``shared`` ones (None: not known yet).

    ``calls`` of it are in the system; the last one left at ``left_ms``.
    """

    own: int = 0
    shared: int | None = None
    calls: int = 0
    left_ms: float = 0.0

    @property
    def context(self) -> int:
        return self.own + (self.shared or 0)


@dataclass(slots=True)
class WorkingSet:
    """One program's. ``calls``: the threads of its calls in the system; ``tokens``: of all threads.

    ``let_in`` says that program admission counts it; ``served_ms`` is what its calls have had that
    left since it was. ``ended``: it goes with its last call. ``anonymous``: a request that named
    no program, so that no other call of it will come.
    """

    program: str
    anonymous: bool = False
    threads: dict[str, Thread] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    idle_since_ms: float = 0.0
    ended: bool = False
    let_in: bool = False
    served_ms: float = 0.0

    @property
    def idle(self) -> bool:
        return not self.calls


class WorkingSets:
    """All of them by program. ``let_in_tokens``: of those that are let in, own parts only.

    A thread that has been quiet for ``quiet_ms`` when its program is heard of is counted no more:
    a helper that is done says so to nobody.
    """

    def __init__(self, quiet_ms: float) -> None:
        self.quiet_ms = quiet_ms
        self.longest_shared = 0
        self.let_in_tokens = 0
        self._sets: dict[str, WorkingSet] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sets)

    def get(self, program: str) -> WorkingSet | None:
        return self._sets.get(program)

    def __getitem__(self, program: str) -> WorkingSet:
        return self._sets[program]

    # -- events ---------------------------------------------------------------------------------

    def arrived(
        self, call_id: str, program: str, thread: str, prompt_tokens: int, now_ms: float
    ) -> WorkingSet:
        """A call entered; until it runs, what it shares is guessed from the program's threads."""
        known = self._sets.get(program)
        if known is None:
            anonymous = program == call_id or program.endswith(f"/{call_id}")
            known = self._sets[program] = WorkingSet(program, anonymous)
        self._idle.pop(program, None)
        known.calls[call_id] = thread
        known.ended = False
        record = known.threads.get(thread)
        if record is None:
            record = known.threads[thread] = Thread()
        record.calls += 1
        shared = record.shared
        if shared is None:
            shared = max(other.context for other in known.threads.values())
        self._resize(known, record, prompt_tokens - shared)
        self._forget_quiet(known, now_ms)
        return known

    def admitted(self, call_id: str, program: str, tokens: int, cached_tokens: int) -> None:
        """A call went into the batch: *cached_tokens* of its context's *tokens* were found.

        The first call of a thread shows what it shares. If a later one finds less, the context was
        begun anew or had been evicted; either way no more than that is shared.
        """
        known = self._sets[program]
        thread = known.threads[known.calls[call_id]]
        if thread.shared is None or cached_tokens < thread.shared:
            thread.shared = cached_tokens
            self.longest_shared = max(self.longest_shared, cached_tokens)
            self._resize(known, thread, tokens - cached_tokens)

    def left(
        self, call_id: str, program: str, tokens: int, service_ms: float, now_ms: float
    ) -> WorkingSet:
        """A call ended with a context of *tokens*, or was aborted."""
        known = self._sets[program]
        thread = known.threads[known.calls.pop(call_id)]
        thread.calls -= 1
        thread.left_ms = now_ms
        known.served_ms += service_ms
        self._resize(known, thread, tokens - (thread.shared or 0))
        self._forget_quiet(known, now_ms)
        if known.idle:
            known.idle_since_ms = now_ms
            self._idle[program] = None
            if known.ended:
                self.forget(program)
            elif len(self._idle) > MAX_IDLE_PROGRAMS:
                self.forget(next(iter(self._idle)))
        return known

    def ended(self, program: str) -> WorkingSet | None:
        """The program is over, now or with its last call; returns it if it is known."""
        known = self._sets.get(program)
        if known is not None:
            known.ended = True
            if known.idle:
                self.forget(program)
        return known

    def forget(self, program: str) -> None:
        known = self._sets.pop(program)
        self._idle.pop(program, None)
        self.put_out(known)

    # -- who is counted ---------------------------------------------------------------------------

    def let_in(self, known: WorkingSet) -> None:
        known.let_in = True
        known.served_ms = 0.0
        self.let_in_tokens += known.tokens

    def put_out(self, known: WorkingSet) -> None:
        if known.let_in:
            known.let_in = False
            self.let_in_tokens -= known.tokens

    def check(self) -> None:
        """Raise AssertionError if the sums or the idle list are out of step."""
        for known in self._sets.values():
            assert known.tokens == sum(t.own for t in known.threads.values()), known
            assert known.idle == (known.program in self._idle), known
        counted = sum(known.tokens for known in self._sets.values() if known.let_in)
        assert counted == self.let_in_tokens, f"{counted} != {self.let_in_tokens} tokens"

    def _resize(self, known: WorkingSet, thread: Thread, own: int) -> None:
        change = max(0, own) - thread.own
        thread.own += change
        known.tokens += change
        if known.let_in:
            self.let_in_tokens += change

    def _forget_quiet(self, known: WorkingSet, now_ms: float) -> None:
        if len(known.threads) == 1:
            return
        for name, thread in list(known.threads.items()):
            if not thread.calls and now_ms - thread.left_ms > self.quiet_ms:
                self._resize(known, thread, 0)
                del known.threads[name]
