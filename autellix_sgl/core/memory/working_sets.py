"""How much KV the programs of one scheduler stand on. Only counts are kept, no tokens.

A program's working set is what its next calls will repeat: the latest context of each of its
threads, as far as they have been heard of lately. What a thread's first call found in the cache is
shared, with other programs (a system prompt) or with the thread it left, so it is not the thread's
own; threads whose prompts begin alike have one root, and of what they share the longest part is
counted once. Times are the scheduler's modelled milliseconds.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from autellix_sgl.core.calls.model import Call
from autellix_sgl.core.calls.queue import Key

# Programs without a call, and roots that nobody counted uses, whose sizes are kept.
MAX_IDLE_PROGRAMS = 16_384
MAX_IDLE_ROOTS = 4096


@dataclass(slots=True)
class Thread:
    """``own``: tokens of its latest context beyond the ``shared`` ones (None: not known yet).

    ``calls`` of it are in the system; the last one left at ``left_ms``.
    """

    root: int
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

    ``kind`` is what its last call was stamped with. ``behind`` is the place after all calls of the
    standing in which its last call ended. ``served_ms`` is the service of the calls that have left
    since program admission let it in. ``ended``: it goes with its last call. ``anonymous``: the
    program of a request that named none; it will have no other call.
    """

    program: str
    anonymous: bool = False
    threads: dict[str, Thread] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    idle_since_ms: float = 0.0
    ended: bool = False
    kind: str = ""
    behind: Key = (0, -1)
    served_ms: float = 0.0

    @property
    def idle(self) -> bool:
        return not self.calls


class SharedParts:
    """What prompts that begin alike have in common, by root; ``tokens``: of the roots in use."""

    def __init__(self) -> None:
        self.tokens = 0
        self._longest: dict[int, int] = {}
        self._users: dict[int, int] = {}

    def longest(self, root: int) -> int:
        return self._longest.get(root, 0)

    def found(self, root: int, tokens: int) -> None:
        """A thread of that root shares *tokens* with others."""
        before = self._longest.pop(root, 0)
        self._longest[root] = max(before, tokens)
        if root in self._users:
            self.tokens += self._longest[root] - before
        if len(self._longest) > MAX_IDLE_ROOTS + len(self._users):
            del self._longest[next(r for r in self._longest if r not in self._users)]

    def use(self, root: int) -> None:
        """A counted thread begins with it."""
        if root not in self._users:
            self.tokens += self.longest(root)
        self._users[root] = self._users.get(root, 0) + 1

    def leave(self, root: int) -> None:
        """A thread that was counted is so no more."""
        self._users[root] -= 1
        if not self._users[root]:
            del self._users[root]
            self.tokens -= self.longest(root)


class WorkingSets:
    """All of them by program. ``inside``: those that program admission has let in, in that order.

    A thread that has been quiet for ``quiet_ms`` when its program is heard of is counted no more:
    a helper that is done says so to nobody.
    """

    def __init__(self, quiet_ms: float) -> None:
        self.quiet_ms = quiet_ms
        self.inside: dict[str, WorkingSet] = {}
        self._own_tokens = 0
        self._shared = SharedParts()
        self._sets: dict[str, WorkingSet] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sets)

    def __getitem__(self, program: str) -> WorkingSet:
        return self._sets[program]

    def get(self, program: str) -> WorkingSet | None:
        return self._sets.get(program)

    @property
    def inside_tokens(self) -> int:
        """What the programs inside stand on."""
        return self._own_tokens + self._shared.tokens

    # -- events ---------------------------------------------------------------------------------

    def arrived(self, call: Call, prompt_tokens: int, root: int, now_ms: float) -> None:
        """A call entered; until it runs, what it shares is guessed from what is known."""
        program = call.stamp.program
        known = self._sets.get(program)
        if known is None:
            anonymous = program == call.id or program.endswith(f"/{call.id}")
            known = self._sets[program] = WorkingSet(program, anonymous)
        self._idle.pop(program, None)
        known.calls[call.id] = call.stamp.thread
        known.ended = False
        known.kind = call.stamp.kind
        thread = known.threads.get(call.stamp.thread)
        if thread is None:
            thread = known.threads[call.stamp.thread] = Thread(root)
            if known.program in self.inside:
                self._shared.use(root)
        thread.calls += 1
        shared = thread.shared
        if shared is None:
            forked = max(other.context for other in known.threads.values())
            shared = max(forked, self._shared.longest(root))
        self._resize(known, thread, prompt_tokens - shared)
        self._forget_quiet(known, now_ms)

    def admitted(self, call: Call, tokens: int, cached_tokens: int) -> None:
        """A call went into the batch: *cached_tokens* of its context's *tokens* were found."""
        known = self._sets[call.stamp.program]
        thread = known.threads[call.stamp.thread]
        if thread.shared is None:
            thread.shared = cached_tokens
            self._shared.found(thread.root, cached_tokens)
            self._resize(known, thread, tokens - cached_tokens)

    def left(self, call: Call, tokens: int, now_ms: float) -> None:
        """A call ended, or was aborted, with a context of *tokens*."""
        program = call.stamp.program
        known = self._sets[program]
        thread = known.threads[known.calls.pop(call.id)]
        thread.calls -= 1
        thread.left_ms = now_ms
        known.behind = (*call.key[:-2], call.level + 1, -1)
        known.served_ms += call.service_ms
        self._resize(known, thread, tokens - (thread.shared or 0))
        self._forget_quiet(known, now_ms)
        if known.idle:
            known.idle_since_ms = now_ms
            self._idle[program] = None
            if known.ended:
                self.forget(program)
            elif len(self._idle) > MAX_IDLE_PROGRAMS:
                self.forget(next(iter(self._idle)))

    def ended(self, program: str) -> WorkingSet | None:
        """The program is over, now or with its last call; returns it if it is known."""
        known = self._sets.get(program)
        if known is not None:
            known.ended = True
            if known.idle:
                self.forget(program)
        return known

    def forget(self, program: str) -> None:
        """Nothing is kept of the program any more."""
        known = self._sets.pop(program)
        self._idle.pop(program, None)
        self.put_out(known)

    # -- who is counted -------------------------------------------------------------------------

    def let_in(self, known: WorkingSet) -> None:
        """Count it from now on."""
        self.inside[known.program] = known
        known.served_ms = 0.0
        self._own_tokens += known.tokens
        for thread in known.threads.values():
            self._shared.use(thread.root)

    def put_out(self, known: WorkingSet) -> None:
        """Count it no more, if it was."""
        if self.inside.pop(known.program, None) is None:
            return
        self._own_tokens -= known.tokens
        for thread in known.threads.values():
            self._shared.leave(thread.root)

    def check(self) -> None:
        """Raise AssertionError if the sums or the idle list are out of step."""
        roots: dict[int, int] = {}
        assert all(self._sets.get(program) is known for program, known in self.inside.items())
        own = 0
        for known in self._sets.values():
            assert known.tokens == sum(thread.own for thread in known.threads.values()), known
            assert known.idle == (known.program in self._idle), known
            if known.program in self.inside:
                own += known.tokens
                for thread in known.threads.values():
                    roots[thread.root] = self._shared.longest(thread.root)
        counted = own + sum(roots.values())
        assert counted == self.inside_tokens, f"{counted} != {self.inside_tokens} tokens"

    # -- inside ---------------------------------------------------------------------------------

    def _resize(self, known: WorkingSet, thread: Thread, own: int) -> None:
        change = max(0, own) - thread.own
        thread.own += change
        known.tokens += change
        if known.program in self.inside:
            self._own_tokens += change

    def _forget_quiet(self, known: WorkingSet, now_ms: float) -> None:
        if len(known.threads) == 1:
            return
        for name, thread in list(known.threads.items()):
            if not thread.calls and now_ms - thread.left_ms > self.quiet_ms:
                self._resize(known, thread, 0)
                del known.threads[name]
                if known.program in self.inside:
                    self._shared.leave(thread.root)
