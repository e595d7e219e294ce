"""Program admission: no more programs at a time than the KV pool has room for.

When the working sets of all live programs exceed the pool, running them all evicts each one's KV
before its next call, and every call computes its whole context again. So a set of programs is let
in whose working sets fit; calls of the others wait, in the order of the queue.

    who is let in     the program of the best waiting call, if its working set fits beside the
                      others, or if nobody who is in has a call: the machine never idles
    who is put out    to make room for a better call: programs that idle and are not expected back
                      soon, then worse programs that have had their recompute's worth of service
                      several times over, many times if they are of the same level; and, when
                      contexts have outgrown the pool, the program that is least likely back, or
                      the worst. A call that runs is not stopped by this.

An idle program is worth its memory if it is back before the pool could be filled by prefill: until
then another program in its place would not have got done more than bringing it back costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from autellix_sgl.core.calls.queue import Key
from autellix_sgl.core.memory.returns import Returns
from autellix_sgl.core.memory.working_sets import WorkingSet, WorkingSets

# Programs are let in up to this share of the pool, and put out when they outgrow all of it.
FILL = 0.9
# An idle program keeps its place while its chance to be back soon is at least this.
KEEP_CHANCE = 0.5
# Service, in costs of computing its KV again, before a program of a better level may take its
# place, or one of the same level whose call came earlier: nobody waits for ever.
PAYBACK, PAYBACK_OF_EQUALS = 4.0, 32.0


@dataclass(frozen=True, slots=True)
class Review:
    """Who was let in, and who was put out."""

    let_in: tuple[str, ...] = ()
    put_out: tuple[str, ...] = ()


class ProgramAdmission:
    """The programs that are in. ``prefill_token_ms``: what computing a token of KV costs.

    ``best_key`` of a program with calls in the system is the best of their keys; ``served_ms`` is
    the service of its calls since it was let in, or, of calls that are still here, since they came.
    """

    def __init__(
        self,
        sets: WorkingSets,
        returns: Returns,
        *,
        pool_tokens: int,
        prefill_token_ms: float,
        best_key: Callable[[WorkingSet], Key],
        served_ms: Callable[[WorkingSet], float],
    ) -> None:
        self.pool_tokens = pool_tokens
        self.prefill_token_ms = prefill_token_ms
        self._sets = sets
        self._returns = returns
        self._best_key = best_key
        self._served_ms = served_ms

    def __contains__(self, program: object) -> bool:
        return program in self._sets.inside

    def review(self, held: Iterable[str], now_ms: float) -> Review:
        """Let in what fits of the programs *held*, the best first, and make room for them.

        The first that neither fits nor can be made room for ends it: a smaller one that came later
        would keep it waiting for ever.
        """
        let_in: list[str] = []
        put_out = self._shed(now_ms)
        someone = any(not known.idle for known in self._sets.inside.values())
        for program in held:
            if program in self._sets.inside:
                continue
            known = self._sets[program]
            missing = self._sets.inside_tokens + known.tokens - int(self.pool_tokens * FILL)
            if missing > 0 and someone:
                leaving = self._make_room(missing, self._best_key(known), now_ms)
                if not leaving:
                    break
                put_out += leaving
                self._put_out(leaving)
            someone = True
            self._sets.let_in(known)
            let_in.append(program)
        return Review(tuple(let_in), tuple(put_out))

    # -- inside ---------------------------------------------------------------------------------

    def _put_out(self, programs: Iterable[str]) -> None:
        for program in programs:
            self._sets.put_out(self._sets[program])

    def _shed(self, now_ms: float) -> list[str]:
        """Contexts have outgrown the pool: who leaves; one program stays, whatever its size."""
        shed: list[str] = []
        inside = self._sets.inside
        while self._sets.inside_tokens > self.pool_tokens and len(inside) > 1:
            idle = [known for known in inside.values() if known.idle]
            if idle:
                least = min(idle, key=lambda known: self._chance(known, now_ms))
            else:
                least = max(inside.values(), key=self._best_key)
            self._put_out([least.program])
            shed.append(least.program)
        return shed

    def _make_room(self, missing: int, better: Key, now_ms: float) -> list[str]:
        """Who should leave to free *missing* tokens for the call *better*; nobody if in vain."""
        idle: list[tuple[float, str]] = []
        worse: list[tuple[Key, str]] = []
        for program, known in self._sets.inside.items():
            if known.idle:
                chance = self._chance(known, now_ms)
                if chance < KEEP_CHANCE:
                    idle.append((chance, program))
            elif self._may_be_displaced(known, better):
                worse.append((self._best_key(known), program))
        idle.sort()
        worse.sort(reverse=True)
        leaving: list[str] = []
        for _, program in (*idle, *worse):
            leaving.append(program)
            missing -= self._sets[program].tokens
            if missing <= 0:
                return leaving
        return []

    def _chance(self, known: WorkingSet, now_ms: float) -> float:
        """That an idle program is back soon."""
        return (
            0.0 if known.anonymous else self._returns.soon(known.kind, now_ms - known.idle_since_ms)
        )

    def _may_be_displaced(self, known: WorkingSet, better: Key) -> bool:
        key = self._best_key(known)
        payback = PAYBACK if key[:-1] > better[:-1] else PAYBACK_OF_EQUALS
        paid = self._served_ms(known) >= payback * known.tokens * self.prefill_token_ms
        return key > better and paid
