"""Program admission: no more programs at a time than the KV pool has room for.

When the working sets of all live programs exceed the pool, running them all evicts each one's KV
before its next call, and every call computes its whole context again. So a set of programs is let in
whose working sets fit; calls of the others wait, in the order of the queue.

    who is let in     the program of the best waiting call, if its working set fits beside the
                      others, or if nobody who is in has a call: the machine never idles
    who is put out    to make room for a better call: programs that idle and are not expected back
                      soon, then those of a worse level that have had their recompute's worth of
                      service several times over; and whoever is worst when contexts have outgrown
                      the pool. A call that runs is not stopped by this.

An idle program is worth its memory if it is back before the pool could be filled by prefill: until
then another program in its place would not have got done more than bringing it back costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from autellix_sgl.core.queue import Key
from autellix_sgl.core.returns import Returns
from autellix_sgl.core.working_sets import WorkingSet, WorkingSets

# Programs are let in up to this share of the pool, and put out when they fill more than all of it.
FILL = 0.9
# An idle program is kept in while its chance to be back soon is at least this.
KEEP_CHANCE = 0.5
# Service, in costs of computing its KV again, before a better program may take its place.
PAYBACK = 4.0


@dataclass(frozen=True, slots=True)
class Review:
    """Who was let in and who was put out, in this order of decisions."""

    let_in: tuple[str, ...] = ()
    put_out: tuple[str, ...] = ()


class ProgramAdmission:
    """The programs that are let in. ``prefill_token_ms``: what computing a token of KV costs.

    ``best_key(program)`` is the key of the best call that the program has in the system, and
    ``served_ms(program)`` the service its calls have had so far that are still here.
    """

    def __init__(
        self,
        sets: WorkingSets,
        returns: Returns,
        *,
        pool_tokens: int,
        prefill_token_ms: float,
        best_key: Callable[[str], Key],
        served_ms: Callable[[str], float],
    ) -> None:
        self.pool_tokens = pool_tokens
        self.prefill_token_ms = prefill_token_ms
        self._sets = sets
        self._returns = returns
        self._best_key = best_key
        self._served_ms = served_ms
        self._in: dict[str, WorkingSet] = {}
        self.counts = dict(let_in=0, idle_out=0, displaced=0, forced=0, over=0)

    def __contains__(self, program: object) -> bool:
        return program in self._in

    def __len__(self) -> int:
        return len(self._in)

    @property
    def used_tokens(self) -> int:
        return self._sets.let_in_tokens + self._sets.longest_shared

    def forget(self, program: str) -> None:
        """The program is over."""
        self._in.pop(program, None)

    def review(self, held: Iterable[str], now_ms: float) -> Review:
        """Let programs in, and put others out, for the programs *held* outside, the best first."""
        let_in: list[str] = []
        put_out = self._shed(now_ms)
        room = int(self.pool_tokens * FILL)
        someone = any(not known.idle for known in self._in.values())
        for program in held:
            if program in self._in:
                continue
            known = self._sets[program]
            missing = self.used_tokens + known.tokens - room
            if missing > 0 and someone:
                leaving = self._make_room(missing, self._best_key(program)[0], now_ms)
                if not leaving:
                    break
                for other in leaving:
                    self._put_out(other)
                    put_out.append(other.program)
            elif missing>0: self.counts["forced"]+=1
            someone = True
            self._in[program] = known
            self.counts["let_in"]+=1
            self._sets.let_in(known)
            let_in.append(program)
        return Review(tuple(let_in), tuple(put_out))

    def _put_out(self, known: WorkingSet) -> None:
        del self._in[known.program]
        self._sets.put_out(known)

    def _shed(self, now_ms: float) -> list[str]:
        """Contexts have outgrown the pool: the idle programs go first, then the worst."""
        shed: list[str] = []
        while self.used_tokens > self.pool_tokens and len(self._in) > 1:
            idle = [(self._chance(known, now_ms), p) for p, known in self._in.items() if known.idle]
            if idle:
                program = min(idle)[1]
            else:
                program = max((self._best_key(p), p) for p in self._in)[1]
            self._put_out(self._in[program])
            shed.append(program)
            self.counts["over"]+=1
        return shed

    def _make_room(self, missing: int, level: int, now_ms: float) -> list[WorkingSet]:
        """Who should leave so that *missing* tokens come free for a call of *level*; empty if that
        cannot be."""
        idle: list[tuple[float, str]] = []
        worse: list[tuple[Key, str]] = []
        for program, known in self._in.items():
            if known.idle:
                chance = self._chance(known, now_ms)
                if chance < KEEP_CHANCE:
                    idle.append((chance, program))
            elif self._has_paid(known):
                key = self._best_key(program)
                if key[0] > level:
                    worse.append((key, program))
        leaving: list[WorkingSet] = []
        for program in [p for _, p in sorted(idle)] + [p for _, p in sorted(worse, reverse=True)]:
            if missing <= 0:
                break
            leaving.append(self._in[program])
            missing -= leaving[-1].tokens
        if missing <= 0:
            n=sum(k.idle for k in leaving)
            self.counts["idle_out"]+=n
            self.counts["displaced"]+=len(leaving)-n
        return leaving if missing <= 0 else []

    def _chance(self, known: WorkingSet, now_ms: float) -> float:
        return 0.0 if known.anonymous else self._returns.chance(now_ms - known.idle_since_ms)

    def _has_paid(self, known: WorkingSet) -> bool:
        served_ms = known.served_ms + self._served_ms(known.program)
        return served_ms >= PAYBACK * known.tokens * self.prefill_token_ms
