"""Schedulers that no engine can or should run, to measure the others by.

They take the events of :class:`~autellix_sgl.core.CallScheduler` and answer its questions, so the
simulated replica does not know the difference; a key is (milliseconds, ticket) instead of (level,
ticket).

- ``srpt``: the call of the program with the least service left goes first. It reads the trace,
  which no server can (paper figure 18's bound).
- ``las``: least attained service without bins; the program that has had the least goes first, to
  the millisecond, so programs take turns and preempt each other at every pass.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from autellix_sgl.core import (
    CallStamp,
    CallStatistics,
    CostModel,
    Reason,
    StepWork,
    choose_victims,
)
from autellix_sgl.sim.jump import decode_run_ms

Key = tuple[float, int]


@dataclass(slots=True)
class RankedCall:
    """A call under an oracle. ``base_ms`` is its rank before it has run at all."""

    id: str
    ticket: int
    base_ms: float
    falls: bool
    queued_at_ms: float
    running: bool = False
    service_ms: float = 0.0
    wait_ms: float = 0.0
    preemptions: int = 0

    @property
    def key(self) -> Key:
        """Service makes a call's rank worse, or better if it *falls* with what is left to do."""
        return (
            self.base_ms - self.service_ms if self.falls else self.base_ms + self.service_ms,
            self.ticket,
        )


class RankScheduler:
    """One key per call, continuous; ``rank_of(call id, stamp)`` gives its base.

    ``falling`` says that service improves the rank (srpt) instead of spoiling it (las).
    """

    next_promotion_ms = math.inf
    choose_victims = staticmethod(choose_victims)

    def __init__(
        self,
        rank_of: Callable[[str, CallStamp], float],
        cost_model: CostModel,
        *,
        falling: bool,
        interval: int = 1,
    ) -> None:
        self.cost_model = cost_model
        self.interval = interval
        self.clock_ms = 0.0
        self._rank_of = rank_of
        self._falling = falling
        self._calls: dict[str, RankedCall] = {}
        self._running: dict[str, RankedCall] = {}
        self._keys: list[Key] = []
        self._ids: dict[Key, str] = {}
        self._next_ticket = 0
        self._steps_since_pass = 0
        self._urgent = False

    # -- events ---------------------------------------------------------------------------------

    def arrive(self, call_id: str, stamp: CallStamp, tokens: int = 0, root: int = 0) -> RankedCall:
        base_ms = self._rank_of(call_id, stamp)
        call = RankedCall(call_id, self._next_ticket, base_ms, self._falling, self.clock_ms)
        self._next_ticket += 1
        self._calls[call_id] = call
        self._push(call)
        self._urgent = self._urgent or any(call.key < r.key for r in self._running.values())
        return call

    def admit(self, call_id: str, tokens: int = 0, cached_tokens: int = 0) -> None:
        call = self._calls[call_id]
        self._pop(call)
        self._running[call_id] = call

    def requeue(self, call_id: str) -> None:
        call = self._running.pop(call_id)
        call.running = False
        call.preemptions += 1
        call.queued_at_ms = self.clock_ms
        self._push(call)

    def step(self, work: StepWork, repeat: int = 1) -> None:
        if repeat == 1:
            self.clock_ms += self.cost_model.step_ms(work)
            for call_id, charge_ms in self.cost_model.charges_ms(work):
                self._running[call_id].service_ms += charge_ms
        else:
            total = sum(decode_run_ms(self.cost_model, work, repeat))
            self.clock_ms += total
            for call_id in work.decodes:
                self._running[call_id].service_ms += total
        self._steps_since_pass += repeat

    def remove(self, call_id: str, tokens: int = 0) -> CallStatistics:
        call = self._calls.pop(call_id)
        if call.running:
            del self._running[call_id]
        else:
            self._pop(call)
        return CallStatistics(0, call.service_ms, call.wait_ms, call.preemptions, 0, 0)

    def promote_starving(self) -> list[str]:
        return []

    def short_of(self, reason: Reason) -> None:
        """It is not asked why calls wait."""

    def end_program(self, program: str) -> None:
        """Nothing is kept of programs."""

    def admit_programs(self) -> None:
        """All are in."""

    # -- questions ------------------------------------------------------------------------------

    @property
    def pass_due(self) -> bool:
        return self._urgent or self._steps_since_pass >= self.interval

    @property
    def steps_to_pass(self) -> int:
        return 0 if self._urgent else max(0, self.interval - self._steps_since_pass)

    def begin_pass(self) -> None:
        self._steps_since_pass = 0
        self._urgent = False

    def head(self, limit: int) -> list[str]:
        return [self._ids[key] for key in islice(self._keys, limit)]

    def offered(self) -> Iterator[str]:
        return (self._ids[key] for key in self._keys)

    @property
    def num_waiting(self) -> int:
        return len(self._keys)

    def first_waiting_key(self) -> Key | None:
        return self._keys[0] if self._keys else None

    # -- inside ---------------------------------------------------------------------------------

    def _push(self, call: RankedCall) -> None:
        insort(self._keys, call.key)
        self._ids[call.key] = call.id

    def _pop(self, call: RankedCall) -> None:
        del self._keys[bisect_left(self._keys, call.key)]
        del self._ids[call.key]
        call.wait_ms += self.clock_ms - call.queued_at_ms
        call.running = True
