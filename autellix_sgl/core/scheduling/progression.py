"""How a call moves through the levels as it gets service: by their quanta, or by its itinerary."""

from __future__ import annotations

import math

from autellix_sgl.core.calls.levels import Levels
from autellix_sgl.core.calls.model import Call, CallStamp
from autellix_sgl.core.calls.policies import Policy

# Tickets within one order of stamps; more calls than any server sees.
TICKETS_PER_ORDER = 2**40


class Progression:
    """Puts calls into levels, each time with a ticket and with the service they may get there.

    A call whose stamp has an itinerary goes where that says; any other enters where *policy* puts
    its program, and goes down a level with each quantum of *levels* that it has spent.
    """

    def __init__(self, policy: Policy, levels: Levels) -> None:
        self._policy = policy
        self._levels = levels
        self._next_ticket = 0

    def enter(self, call_id: str, stamp: CallStamp, now_ms: float) -> Call:
        """A call that begins to wait, at *now_ms* of the scheduler's clock."""
        level = self._policy.entry_level(self._levels, stamp.priority_ms)
        call = Call(
            id=call_id,
            stamp=stamp,
            level=level,
            quantum_left_ms=self._levels.quanta_ms[level],
            ticket=self._draw_ticket(stamp),
            queued_at_ms=now_ms,
        )
        if stamp.itinerary:
            _begin_leg(call)
        return call

    def advance(self, call: Call) -> None:
        """The call has spent its quantum: on to the next level, and by as many as it overran."""
        while call.quantum_left_ms <= 0:
            # What it overran comes off the next quantum: a step is not divisible, service is.
            before, overrun_ms = call.level, call.quantum_left_ms
            if call.stamp.itinerary:
                _begin_leg(call)
            else:
                call.level += 1
                call.quantum_left_ms = self._levels.quanta_ms[call.level]
            call.quantum_left_ms += overrun_ms
            call.ticket = self._draw_ticket(call.stamp)
            call.demotions += call.level > before

    def promote(self, call: Call) -> None:
        """To the top; from there it returns to where it was, by its levels or its itinerary."""
        call.level = 0
        call.quantum_left_ms = self._levels.quanta_ms[0]
        call.legs_begun = max(0, call.legs_begun - 1)
        call.ticket = self._draw_ticket(call.stamp)
        call.promotions += 1

    def _draw_ticket(self, stamp: CallStamp) -> int:
        ticket = self._next_ticket
        self._next_ticket += 1
        return stamp.order * TICKETS_PER_ORDER + ticket


def _begin_leg(call: Call) -> None:
    """The call goes where its itinerary has it next; the last leg has no end."""
    legs = call.stamp.itinerary
    call.level, quantum_ms = legs[call.legs_begun]
    call.legs_begun += 1
    last = call.legs_begun == len(legs)
    call.quantum_left_ms = math.inf if quantum_ms is None or last else quantum_ms
