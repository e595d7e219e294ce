"""What one scheduler knows of its programs' KV between their calls, and what it decides by it.

Two things: whose calls may run at all (:mod:`autellix_sgl.core.admission`), and which context that
nobody runs on should leave the pool first. Both by the scheduler's modelled clock, so that all ranks
agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from autellix_sgl.core.admission import ProgramAdmission, Review
from autellix_sgl.core.cost import CostModel
from autellix_sgl.core.model import Call, CallStamp
from autellix_sgl.core.queue import Key
from autellix_sgl.core.returns import Returns
from autellix_sgl.core.working_sets import WorkingSets

# How much of the past the mean time between two admissions of calls remembers.
TURN_WEIGHT = 0.05

Worth = tuple[int, float]
"""Contexts of less worth are evicted first: a class, and in it minus the time to the next use."""

OVER, OUTSIDE, HELD, INSIDE = range(4)


class ProgramMemory:
    """*pool_tokens*: what the KV pool holds. *admission*: whether programs are kept outside."""

    def __init__(self, pool_tokens: int, cost_model: CostModel, *, admission: bool) -> None:
        self.pool_tokens = pool_tokens
        soon_ms = pool_tokens * cost_model.per_prefill_token_ms
        self.changed = False
        self.sets = WorkingSets(soon_ms)
        self.returns = Returns(soon_ms)
        self._calls: dict[str, dict[str, Call]] = {}
        self.admission = (
            ProgramAdmission(
                self.sets,
                self.returns,
                pool_tokens=pool_tokens,
                prefill_token_ms=cost_model.per_prefill_token_ms,
                best_key=self._best_key,
                served_ms=self._served_ms,
            )
            if admission
            else None
        )
        self._turn_ms = 0.0
        self._turned_at_ms = 0.0

    @property
    def admits(self) -> bool:
        """Whether programs have to be let in."""
        return self.admission is not None

    def describe(self) -> dict[str, object]:
        """What a replay has to know; nothing if nothing is decided here."""
        return {"pool_tokens": self.pool_tokens} if self.admits else {}

    def use_cost_model(self, model: CostModel) -> None:
        soon_ms = self.pool_tokens * model.per_prefill_token_ms
        self.sets.quiet_ms = soon_ms
        self.returns.use_horizon(soon_ms)
        if self.admission is not None:
            self.admission.prefill_token_ms = model.per_prefill_token_ms

    # -- events ---------------------------------------------------------------------------------

    def arrived(self, call: Call, tokens: int, now_ms: float) -> None:
        program, thread = call.stamp.program, call.stamp.thread
        before = self.sets.get(program)
        if before is not None and before.idle:
            self.returns.returned(now_ms - before.idle_since_ms)
        self.sets.arrived(call.id, program, thread, tokens, now_ms)
        self._calls.setdefault(program, {})[call.id] = call
        self.changed = True

    def admitted(self, call: Call, tokens: int, cached_tokens: int, now_ms: float) -> None:
        self.sets.admitted(call.id, call.stamp.program, tokens, cached_tokens)
        self._turn_ms += TURN_WEIGHT * (now_ms - self._turned_at_ms - self._turn_ms)
        self._turned_at_ms = now_ms

    def left(self, call: Call, tokens: int, now_ms: float) -> None:
        program = call.stamp.program
        calls = self._calls[program]
        del calls[call.id]
        if not calls:
            del self._calls[program]
        self.sets.left(call.id, program, tokens, call.service_ms, now_ms)
        self._settle(program)

    def ended(self, program: str) -> None:
        """The program is over, now or with its last call."""
        known = self.sets.ended(program)
        if known is not None:
            if not known.anonymous:
                self.returns.ended()
            self._settle(program)

    def _settle(self, program: str) -> None:
        if self.admission is not None and self.sets.get(program) is None:
            self.admission.forget(program)
        self.changed = True

    # -- questions ------------------------------------------------------------------------------

    def holds(self, program: str) -> bool:
        """Whether the program's calls must not run now."""
        return self.admission is not None and program not in self.admission

    def review(self, held: Iterable[str], now_ms: float) -> Review:
        """Whom to let in of the programs *held*, the best first, and whom to put out for them."""
        self.changed = False
        return self.admission.review(held, now_ms) if self.admission is not None else Review()

    def calls_of(self, program: str) -> list[Call]:
        """The program's calls in the system, oldest first."""
        return list(self._calls.get(program, {}).values())

    def worth(self, program: str, thread: str, used_ms: float, now_ms: float, rank_of) -> Worth:
        """Of a context that was last used at *used_ms*."""
        known = self.sets.get(program)
        if known is None:
            return (OVER, used_ms)
        waiting = [
            call.key for call in self.calls_of(program)
            if call.waiting and call.stamp.thread == thread
        ]
        inside = not self.holds(program)
        if waiting:
            key = min(waiting)
            return (INSIDE if inside else HELD, -rank_of(key) * self._turn_ms)
        chance = 0.0 if known.anonymous else self.returns.chance(now_ms - used_ms)
        until = self.returns.within_ms / chance if chance else float("inf")
        return (INSIDE if inside else OUTSIDE, -until)

    def _best_key(self, program: str) -> Key:
        return min(call.key for call in self._calls[program].values())

    def _served_ms(self, program: str) -> float:
        return sum(call.service_ms for call in self.calls_of(program))
