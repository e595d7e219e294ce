"""What one scheduler knows of its programs' KV between their calls, and decides by it.

Two things: whose calls may run at all (:mod:`autellix_sgl.core.memory.admission`), and which of the
contexts that nobody runs on should leave the pool first. Both go by the scheduler's modelled clock
and by its own events, so that all ranks agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from autellix_sgl.core.calls.cost import CostModel
from autellix_sgl.core.calls.model import Call
from autellix_sgl.core.calls.queue import Key
from autellix_sgl.core.memory.admission import ProgramAdmission, Review
from autellix_sgl.core.memory.returns import Returns
from autellix_sgl.core.memory.working_sets import WorkingSet, WorkingSets

# Whose calls may run: everybody's, or those of programs whose working sets fit the pool.
OFF, WORKING_SET = ADMISSIONS = ("off", "working-set")
# What leaves the pool first: what was used longest ago, or what is worth least.
LRU, VALUE = EVICTIONS = ("lru", "value")

# How much the latest time between two admissions of calls counts in the mean.
TURN_WEIGHT = 0.05

Worth = tuple[int, float]
"""What a context in memory is worth; the least is evicted first. A class, and a place in it."""

# The classes: contexts of programs that are over, by their last use; those of programs that are not
# let in, which have to wait for room anyway, and all others, by their next use.
OVER, OUT, LIVE = range(3)


class ProgramMemory:
    """*pool_tokens*: what the KV pool holds. *admission*: whether programs have to be let in.

    ``changed`` says that something has happened since the last :meth:`review`.
    """

    def __init__(self, pool_tokens: int, cost_model: CostModel, *, admission: bool) -> None:
        self.pool_tokens = pool_tokens
        self.changed = False
        soon_ms = pool_tokens * cost_model.per_prefill_token_ms
        self.sets = WorkingSets(soon_ms)
        self.returns = Returns(soon_ms)
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
        self._calls: dict[str, dict[str, Call]] = {}
        self._turn_ms = 0.0
        self._last_turn_ms = 0.0

    @property
    def admits(self) -> bool:
        """Whether programs have to be let in."""
        return self.admission is not None

    # -- events ---------------------------------------------------------------------------------

    def arrived(self, call: Call, tokens: int, root: int, now_ms: float) -> None:
        """A call with a prompt of *tokens* entered; prompts of one *root* begin alike."""
        program = call.stamp.program
        before = self.sets.get(program)
        if before is not None and before.idle:
            self.returns.returned(call.stamp.kind, now_ms - before.idle_since_ms)
        self.sets.arrived(call, tokens, root, now_ms)
        self._calls.setdefault(program, {})[call.id] = call
        self.changed = True

    def admitted(self, call: Call, tokens: int, cached_tokens: int, now_ms: float) -> None:
        """A call went into the batch; *cached_tokens* of its context's *tokens* were found."""
        self.sets.admitted(call, tokens, cached_tokens)
        self._turn_ms += TURN_WEIGHT * (now_ms - self._last_turn_ms - self._turn_ms)
        self._last_turn_ms = now_ms

    def left(self, call: Call, tokens: int, now_ms: float) -> None:
        """A call ended, or was aborted, with a context of *tokens*."""
        program = call.stamp.program
        calls = self._calls[program]
        del calls[call.id]
        if not calls:
            del self._calls[program]
        self.sets.left(call, tokens, now_ms)
        self.changed = True

    def ended(self, program: str) -> None:
        """The program is over, now or with its last call."""
        known = self.sets.ended(program)
        if known is not None:
            self.returns.ended(known.kind)
            self.changed = True

    def use_cost_model(self, model: CostModel) -> None:
        """Reckon by *model* from now on."""
        soon_ms = self.pool_tokens * model.per_prefill_token_ms
        self.sets.quiet_ms = soon_ms
        self.returns.use_horizon(soon_ms)
        if self.admission is not None:
            self.admission.prefill_token_ms = model.per_prefill_token_ms

    # -- decisions ------------------------------------------------------------------------------

    def holds(self, program: str) -> bool:
        """Whether the program's calls must not be admitted now."""
        return self.admission is not None and program not in self.admission

    def review_due(self, pass_due: bool) -> bool:
        """Whether :meth:`review` may let anybody in or put anybody out."""
        return self.admission is not None and (self.changed or pass_due)

    def review(self, held: Iterable[str], now_ms: float) -> Review:
        """Whom to let in of the programs *held*, the best first, and whom to put out for them."""
        self.changed = False
        return self.admission.review(held, now_ms) if self.admission is not None else Review()

    def worth(
        self,
        program: str | None,
        thread: str,
        used_ms: float,
        *,
        now_ms: float,
        before: Callable[[Key, bool], int],
    ) -> Worth:
        """What the context that a thread's call left at *used_ms* is worth.

        With no *program* several have used it, and others may; it is expected to be used again
        after as long as it has not been.

        Computing a token again costs the same for all contexts, and so does keeping it for a
        while, so what is compared is when a context will be used: when its thread's call has its
        turn, or when the program is back, by what is known of gaps, and has had to wait its turn.
        *before* says how many waiting calls come before a key, of those that are held or of those
        that are not.
        """
        if program is None:
            return (LIVE, used_ms - now_ms)
        known = self.sets.get(program)
        if known is None:
            return (OVER, used_ms)
        held = self.holds(program)
        keys = [c.key for c in self.calls_of(program) if c.waiting and c.stamp.thread == thread]
        turn_ms = before(min(keys, default=known.behind), held) * self._turn_ms
        until_ms = 0.0 if keys else self.returns.until_ms(known.kind, now_ms - used_ms)
        return (OUT if held else LIVE, -(turn_ms + until_ms))

    def calls_of(self, program: str) -> Sequence[Call]:
        """The program's calls in the system, oldest first."""
        return tuple(self._calls.get(program, {}).values())

    # -- inside ---------------------------------------------------------------------------------

    def _best_key(self, known: WorkingSet) -> Key:
        return min(call.key for call in self._calls[known.program].values())

    def _served_ms(self, known: WorkingSet) -> float:
        return known.served_ms + sum(call.service_ms for call in self.calls_of(known.program))
