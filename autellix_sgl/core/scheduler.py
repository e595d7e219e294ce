"""The multi-level scheduler of one batch (paper section 4.2, Algorithm 1), as events.

    arrive ----> [waiting] --admit--> [running] --remove--> gone
                    ^  |                 |  |
     promote (level 0) +<----requeue-----+  step: charge, demote

A driver (engine, simulator, replay) reports what happened; this object keeps every call's level,
ticket, quantum and counters, and answers which calls come first. It never touches memory or
requests. Its clock is the sum of modelled step times, so time passes only when steps run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain

from autellix_sgl.core.cost import CostModel, StepWork
from autellix_sgl.core.levels import Levels
from autellix_sgl.core.model import Call, CallStamp, CallStatistics
from autellix_sgl.core.policies import Policy
from autellix_sgl.core.preemption import Candidate, Running, choose_victims
from autellix_sgl.core.program_memory import ProgramMemory, Worth
from autellix_sgl.core.queue import CallQueue, Key
from autellix_sgl.core.shares import Account, SharedQueue
from autellix_sgl.core.waits import NO_WAITS, Rank, Reason, WaitClock, add, by_reason, settled
from autellix_sgl.errors import ConfigError, UnknownCall

# Tickets within one order of stamps; more calls than any server sees.
TICKETS_PER_ORDER = 2**40

Recorder = Callable[[str, dict[str, object]], None]


class CallScheduler:
    """Levels, quanta, anti-starvation and order for the calls of one scheduler process.

    ``starvation_ratio`` is beta of Algorithm 1 (0: never promote). ``interval`` is N: a preemption
    pass is due after N steps, or at once when a call arrives that beats a running one.
    ``share_turn_ms``: tenants have shares, in turns of so much service (see ``shares``).
    With ``memory`` the KV of programs between their calls is watched, and calls may be held until
    their program is let in (:mod:`autellix_sgl.core.program_memory`).
    ``record`` is told what the scheduler is made of, then every event and what was decided, enough
    to decide the run again (:mod:`autellix_sgl.sim.replay`).
    """

    def __init__(
        self,
        policy: Policy,
        levels: Levels,
        cost_model: CostModel,
        *,
        starvation_ratio: float = 0.0,
        interval: int = 1,
        share_turn_ms: float | None = None,
        record: Recorder | None = None,
        memory: ProgramMemory | None = None,
    ) -> None:
        if starvation_ratio < 0:
            raise ConfigError(f"starvation ratio must be >= 0, got {starvation_ratio}")
        if interval < 1:
            raise ConfigError(f"schedule interval must be at least 1 step, got {interval}")
        self.policy = policy
        self.levels = levels if policy.uses_levels else Levels.single()
        self.cost_model = cost_model
        self.starvation_ratio = starvation_ratio
        self.interval = interval
        self.clock_ms = 0.0
        self.memory = memory
        self._record = record
        self._calls: dict[str, Call] = {}
        self._shares = None if share_turn_ms is None else SharedQueue(share_turn_ms)
        self._queue = CallQueue() if self._shares is None else self._shares
        # By level and ticket, whatever turn their tenants are in.
        self._held = CallQueue()
        self._running: dict[str, Call] = {}
        self._waits = WaitClock()
        self._short_of = Reason.SLOTS
        self._front: Rank | None = None
        self._due: list[tuple[float, int, str]] = []
        self._next_ticket = 0
        self._steps_since_pass = 0
        self._urgent = False
        if record is not None:
            record("start", self._describe())

    # -- events ---------------------------------------------------------------------------------

    def arrive(self, call_id: str, stamp: CallStamp, tokens: int = 0, root: int = 0) -> Call:
        """A call that was never seen begins to wait; raises UnknownCall on a duplicate id.

        *tokens* of prompt and its *root*, a number that prompts have in common which begin alike,
        are for ``memory``, and so are a context's *tokens* and *cached_tokens* in :meth:`admit` and
        :meth:`remove`. Without one they may be left out.
        """
        if call_id in self._calls:
            raise UnknownCall(call_id, "arrived twice")
        level = self.policy.entry_level(self.levels, stamp.priority_ms)
        call = Call(
            id=call_id,
            stamp=stamp,
            level=level,
            quantum_left_ms=self.levels.quanta_ms[level],
            ticket=self._draw_ticket(stamp),
            queued_at_ms=self.clock_ms,
        )
        if stamp.itinerary:
            self._begin_leg(call, 0)
        self._calls[call_id] = call
        if self._shares is not None:
            call.account = self._shares.open(call_id, stamp.tenant, stamp.weight)
        if self.memory is not None:
            self.memory.arrived(call, tokens, root, self.clock_ms)
        self._enqueue(call)
        self._note_urgency(call)
        if self._record is not None:
            sizes = self._sizes(tokens=tokens, root=root)
            self._tell("arrive", call, stamp=stamp.record(), **sizes)
        return call

    def admit(self, call_id: str, tokens: int = 0, cached_tokens: int = 0) -> None:
        """A waiting call was taken into the batch."""
        call = self._expect(call_id, waiting=True)
        self._dequeue(call)
        self._running[call_id] = call
        if self.memory is not None:
            self.memory.admitted(call, tokens, cached_tokens, self.clock_ms)
        self._tell("admit", call, **self._sizes(tokens=tokens, cached_tokens=cached_tokens))
        self._tell_waits(call)

    def requeue(self, call_id: str) -> None:
        """A running call was put back (preempted, parked or retracted); it keeps its place."""
        call = self._expect(call_id, waiting=False)
        del self._running[call_id]
        call.preemptions += 1
        call.queued_at_ms = self.clock_ms
        self._enqueue(call)
        self._tell("requeue", call)

    def step(self, work: StepWork, repeat: int = 1) -> None:
        """The executor was given one step of *work*: time passes, service and quanta are charged.

        Ids it does not know are passed over: under overlap a call that finished in the step before
        still takes part in one more. *repeat* > 1 stands for that many decode steps in a row, each
        over a context one token a call longer than the last: the same decisions as the single steps
        (sums may differ in the last bit), for drivers that jump over what cannot change anything.
        """
        if repeat == 1:
            self._pass_time(self.cost_model.step_ms(work))
            for call_id, charge_ms in self.cost_model.charges_ms(work):
                call = self._running.get(call_id)
                if call is not None:
                    self._charge(call, charge_ms)
        else:
            self._charge_decodes(work, repeat)
        self._steps_since_pass += repeat
        if self._record is not None:
            more = {} if repeat == 1 else {"repeat": repeat}
            self._record("step", {"work": work, "clock_ms": self.clock_ms, **more})

    def remove(self, call_id: str, tokens: int = 0) -> CallStatistics:
        """A call left, finished or aborted, waiting or running; returns what it cost."""
        call = self._calls.pop(call_id, None)
        if call is None:
            raise UnknownCall(call_id, "left, but is not here")
        if call.waiting:
            self._dequeue(call)
        else:
            del self._running[call_id]
            self._front = None
        if self._shares is not None:
            self._shares.close(call_id)
        if self.memory is not None:
            self.memory.left(call, tokens, self.clock_ms)
        self._tell("remove", call, **self._sizes(tokens=tokens))
        self._tell_waits(call)
        return statistics_of(call)

    def end_program(self, program: str) -> None:
        """No further call of the program will come: its KV is of use to nobody."""
        if self.memory is None:
            return
        self.memory.ended(program)
        if self._record is not None and self.memory.admits:
            self._record("end_program", {"program": program, "clock_ms": self.clock_ms})

    def admit_programs(self) -> None:
        """Let programs in and put others out, if something has changed or a pass is due."""
        if self.memory is not None and (self.memory.changed or self.pass_due):
            self.review_programs()

    def review_programs(self) -> None:
        """Offer the calls of the programs that are let in, hold those of the others."""
        if self.memory is None or not self.memory.admits:
            return
        review = self.memory.review(self._held_programs(), self.clock_ms)
        for program in (*review.put_out, *review.let_in):
            for call in self.memory.calls_of(program):
                if call.waiting:
                    self._dequeue(call)
                    call.queued_at_ms = self.clock_ms
                    self._enqueue(call)
                    self._note_urgency(call)
        if self._record is not None and (review.let_in or review.put_out):
            self._record(
                "programs",
                {
                    "let_in": list(review.let_in),
                    "put_out": list(review.put_out),
                    "clock_ms": self.clock_ms,
                },
            )

    def promote_starving(self) -> list[str]:
        """Move every waiting call whose wait outweighs its service to the top level.

        Algorithm 1's rule: (W + w) / (T + t) >= beta. While a call waits only w grows, so the
        moment is known when the wait begins and only the calls that are due are looked at. Only the
        call's own w and t are zeroed: the program's other threads are due by the same W and T.
        """
        promoted: list[str] = []
        while self._due and self._due[0][0] <= self.clock_ms:
            due_ms, _, call_id = heappop(self._due)
            call = self._calls.get(call_id)
            if call is None or not call.waiting or call.due_ms != due_ms:
                continue  # it ran, left or was promoted since this entry was made
            self._promote(call)
            promoted.append(call_id)
        return promoted

    def short_of(self, reason: Reason) -> None:
        """What the latest admission ran out of, memory or slots; it decides nothing."""
        if reason is self._short_of:
            return
        self._short_of = reason
        if self._record is not None:
            self._record("short_of", {"reason": reason.value})

    def use_cost_model(self, model: CostModel) -> None:
        """Charge by *model* from the next step on."""
        self.cost_model = model
        if self.memory is not None:
            self.memory.use_cost_model(model)
        if self._record is not None:
            self._record("cost_model", dict(model.as_dict()))

    def choose_victims(
        self,
        candidates: Iterable[Candidate],
        running: Sequence[Running],
        *,
        free_slots: int,
        free_tokens: int,
        min_steps_left: int,
    ) -> list[str]:
        """:func:`~autellix_sgl.core.preemption.choose_victims`, recorded."""
        seen: list[Candidate] = []
        limits = {
            "free_slots": free_slots,
            "free_tokens": free_tokens,
            "min_steps_left": min_steps_left,
        }
        victims = choose_victims(_remembering(candidates, seen), running, **limits)
        if self._record is not None:
            fields = {"candidates": seen, "running": list(running), **limits, "victims": victims}
            self._record("choose_victims", fields)
        return victims

    # -- questions ------------------------------------------------------------------------------

    @property
    def pass_due(self) -> bool:
        """Whether it is time to consider preemption."""
        return self._urgent or self._steps_since_pass >= self.interval

    @property
    def steps_to_pass(self) -> int:
        """How many steps until a pass is due, if no better call arrives; 0 when one is due."""
        return 0 if self._urgent else max(0, self.interval - self._steps_since_pass)

    @property
    def next_promotion_ms(self) -> float:
        """The clock reading at which a waiting call may next be due for promotion, or infinity.

        Never too late; too early when the entry's wait is over, which promote_starving clears.
        """
        return self._due[0][0] if self._due else math.inf

    def begin_pass(self) -> None:
        """The driver considers preemption now; the count to the next pass starts again."""
        self._steps_since_pass = 0
        self._urgent = False

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._calls

    def call(self, call_id: str) -> Call:
        """The live record of a call; raises UnknownCall."""
        try:
            return self._calls[call_id]
        except KeyError:
            raise UnknownCall(call_id, "was asked for, but is not here") from None

    def waits_of(self, call_id: str) -> tuple[float, tuple[float, ...]]:
        """How long a call has waited until now, and that by reason; raises UnknownCall."""
        call = self.call(call_id)
        if call.queued_at_ms is None:
            return call.wait_ms, settled(call.wait_ms, call.waits)
        waited_ms = self.clock_ms - call.queued_at_ms
        total_ms = call.wait_ms + waited_ms
        return total_ms, settled(total_ms, self._waits_with(call, waited_ms))

    def accounts(self) -> Iterable[Account]:
        """The tenants' standing here, where they have shares."""
        return () if self._shares is None else self._shares.accounts()

    def head(self, limit: int) -> list[str]:
        """At most *limit* calls ids that wait and are not held, best first."""
        return self._queue.head(limit)

    def offered(self) -> Iterator[str]:
        """The ids of all calls that wait and are not held, best first."""
        return iter(self._queue)

    def waiting(self) -> Iterator[str]:
        """All waiting call ids, best first; those that are held come last."""
        return chain(self._queue, self._held)

    @property
    def num_waiting(self) -> int:
        return len(self._queue) + len(self._held)

    @property
    def num_held(self) -> int:
        return len(self._held)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def first_waiting_key(self) -> Key | None:
        """The key of the best call that waits and is not held."""
        return self._queue.first_key()

    def worth(self, program: str | None, thread: str, used_ms: float) -> Worth:
        """What keeping a context in memory is worth; see :meth:`ProgramMemory.worth`."""
        assert self.memory is not None, "the scheduler was made without a memory"
        return self.memory.worth(
            program, thread, used_ms, now_ms=self.clock_ms, rank_of=self._queue.rank
        )

    def calls_per_level(self) -> list[int]:
        """How many live calls each level holds, best level first."""
        counts = [0] * self.levels.count
        for call in self._calls.values():
            counts[call.level] += 1
        return counts

    def check(self) -> None:
        """Raise AssertionError if a call is lost, in two places, or out of step with the queue."""
        waiting = list(self.waiting())
        assert len(waiting) + len(self._running) == len(self._calls), (
            f"{len(waiting)} waiting + {len(self._running)} running != {len(self._calls)} calls"
        )
        for call_id in waiting:
            call = self._calls[call_id]
            assert call.waiting, f"{call_id} is queued but its record says it runs"
            assert call_id not in self._running, f"{call_id} is queued and running"
            assert call.held == self._is_held(call), f"{call_id} is in the wrong queue"
        for call_id, call in self._running.items():
            assert not call.waiting, f"{call_id} runs but its record says it waits"
            assert self._calls.get(call_id) is call, f"{call_id} runs but is not known"

    # -- inside ---------------------------------------------------------------------------------

    def _describe(self) -> dict[str, object]:
        levels = self.levels
        shares = {} if self._shares is None else {"share_turn_ms": self._shares.turn_ms}
        return {
            "policy": self.policy.name,
            "boundaries_ms": list(levels.boundaries_ms),
            "quanta_ms": [None if math.isinf(quantum) else quantum for quantum in levels.quanta_ms],
            "cost_model": self.cost_model.as_dict(),
            "starvation_ratio": self.starvation_ratio,
            "interval": self.interval,
            **shares,
            **(self.memory.describe() if self.memory is not None else {}),
        }

    def _draw_ticket(self, stamp: CallStamp) -> int:
        ticket = self._next_ticket
        self._next_ticket += 1
        return stamp.order * TICKETS_PER_ORDER + ticket

    def _expect(self, call_id: str, *, waiting: bool) -> Call:
        call = self._calls.get(call_id)
        if call is None:
            raise UnknownCall(call_id, "is not here")
        if call.waiting != waiting:
            raise UnknownCall(call_id, "runs already" if waiting else "is waiting already")
        return call

    def _enqueue(self, call: Call) -> None:
        call.held = self._is_held(call)
        if call.held:
            self._held.push(_place(call), call.id)
        else:
            self._queue.push(call.key, call.id)
            call.mark = self._waits.begin(call.tenant, call.rank)
            self._front = None
        call.due_ms = None
        # At the top there is nowhere to be promoted to.
        if self.starvation_ratio > 0 and call.level > 0:
            service_ms = call.stamp.program_service_ms
            if call.stamp.itinerary:
                # Attained service brings a call to its level by itself. A kind that is known to be
                # long begins there, and would starve by the rule before it has waited at all.
                service_ms = max(service_ms, self.levels.boundaries_ms[call.level - 1])
            call.due_ms = (
                self.clock_ms
                + self.starvation_ratio * (service_ms + call.recent_service_ms)
                - call.stamp.program_wait_ms
                - call.recent_wait_ms
            )
            heappush(self._due, (call.due_ms, call.ticket, call.id))
            self._forget_stale_dues()

    def _is_held(self, call: Call) -> bool:
        return self.memory is not None and self.memory.holds(call.stamp.program)

    def _dequeue(self, call: Call) -> None:
        if call.held:
            self._held.remove(_place(call))
        else:
            self._queue.remove(call.key)
            self._front = None
        self._stop_waiting(call)
        if call.account is not None and call.account.first is None:
            self._waits.forget(call.tenant)

    def _note_urgency(self, call: Call) -> None:
        """A call has begun to wait in a better place than before: is a pass due because of it?"""
        if call.held and self.memory is not None:
            self.memory.changed = True
        elif not self._urgent:
            self._urgent = any(call.key < running.key for running in self._running.values())

    def _held_programs(self) -> Iterator[str]:
        """The programs of the held calls, the best call first, some more than once."""
        calls: Iterable[Call] = (self._calls[call_id] for call_id in self._held)
        if self._shares is not None:
            calls = sorted(calls, key=lambda call: call.key)
        return (call.stamp.program for call in calls)

    def _sizes(self, **tokens: int) -> dict[str, int]:
        """What a trace says of contexts: only what was decided by them."""
        return tokens if self.memory is not None and self.memory.admits else {}

    def _forget_stale_dues(self) -> None:
        """Rebuild the heap once most of its entries are of waits that are over (amortised O(1))."""
        if len(self._due) > 64 + 2 * self.num_waiting:
            waiting = (self._calls[call_id] for call_id in self.waiting())
            self._due = [(c.due_ms, c.ticket, c.id) for c in waiting if c.due_ms is not None]
            heapify(self._due)

    def _stop_waiting(self, call: Call) -> None:
        assert call.queued_at_ms is not None
        waited = self.clock_ms - call.queued_at_ms
        call.wait_ms += waited
        call.waits = self._waits_with(call, waited)
        call.recent_wait_ms += waited
        call.queued_at_ms = None
        call.due_ms = None

    def _waits_with(self, call: Call, waited_ms: float) -> tuple[float, ...]:
        """The call's waits by reason, the one that goes on and has taken *waited_ms* included."""
        if call.held:
            return add(call.waits, (waited_ms, *NO_WAITS[1:]))
        more = self._waits.end(call.tenant, call.rank, call.mark, waited_ms)
        return add(call.waits, more)

    def _pass_time(self, ms: float) -> None:
        self.clock_ms += ms
        if len(self._queue):
            if self._front is None:
                self._front = self._find_front()
            self._waits.advance(self._front, ms, self._short_of)

    def _find_front(self) -> Rank:
        """The better of the best waiting call's rank and the worst running one's."""
        best = self._calls[self._queue.head(1)[0]].rank
        self._waits.forget_turns_before(best[0])
        return min(best, max((call.rank for call in self._running.values()), default=best))

    def _charge_share(self, call: Call, charge_ms: float) -> None:
        account = call.account
        if account is None or self._shares is None:
            return
        before = account.turn
        if self._shares.charge(account, charge_ms):
            self._waits.move(account.tenant, before, account.turn)
            self._front = None

    def _charge(self, call: Call, charge_ms: float) -> None:
        call.service_ms += charge_ms
        call.recent_service_ms += charge_ms
        call.quantum_left_ms -= charge_ms
        self._charge_share(call, charge_ms)
        while call.quantum_left_ms <= 0:
            # What it overran comes off the next quantum: a step is not divisible, service is.
            before, overrun_ms = call.level, call.quantum_left_ms
            if call.stamp.itinerary:
                self._begin_leg(call, call.legs_begun)
            else:
                call.level += 1
                call.quantum_left_ms = self.levels.quanta_ms[call.level]
            call.quantum_left_ms += overrun_ms
            call.ticket = self._draw_ticket(call.stamp)
            call.demotions += call.level > before
            self._front = None

    def _begin_leg(self, call: Call, number: int) -> None:
        """The call goes where its itinerary has it next."""
        legs = call.stamp.itinerary
        call.level, quantum_ms = legs[number]
        call.legs_begun = number + 1
        last = call.legs_begun == len(legs)
        call.quantum_left_ms = math.inf if quantum_ms is None or last else quantum_ms

    def _charge_decodes(self, work: StepWork, repeat: int) -> None:
        """*repeat* decode steps at once; calls whose quantum ends on the way go step by step."""
        if work.prefills or repeat < 1:
            raise ValueError(f"only decode steps repeat, and at least once (repeat={repeat})")
        charges = self.cost_model.decode_run_ms(work, repeat)
        total = sum(charges)
        self._pass_time(total)
        crossing: list[Call] = []
        for call_id in work.decodes:
            call = self._running.get(call_id)
            if call is None:
                continue
            if call.quantum_left_ms > total:
                call.service_ms += total
                call.recent_service_ms += total
                call.quantum_left_ms -= total
                self._charge_share(call, total)
            else:
                crossing.append(call)
        for charge_ms in charges if crossing else ():
            for call in crossing:
                self._charge(call, charge_ms)

    def _promote(self, call: Call) -> None:
        self._dequeue(call)
        call.queued_at_ms = self.clock_ms
        call.recent_wait_ms = 0.0
        call.recent_service_ms = 0.0
        call.level = 0
        call.quantum_left_ms = self.levels.quanta_ms[0]
        # From the top it returns to where it was, by its levels or its itinerary.
        call.legs_begun = max(0, call.legs_begun - 1)
        call.ticket = self._draw_ticket(call.stamp)
        call.promotions += 1
        self._enqueue(call)
        self._note_urgency(call)
        self._tell("promote", call)

    def _tell(self, event: str, call: Call, **more: object) -> None:
        if self._record is not None:
            self._record(
                event,
                {
                    "call": call.id,
                    "level": call.level,
                    "ticket": call.ticket,
                    "clock_ms": self.clock_ms,
                    **({} if call.account is None else {"turn": call.account.turn}),
                    **more,
                },
            )

    def _tell_waits(self, call: Call) -> None:
        """How long the call has waited so far and why, the longest reason first."""
        if self._record is not None and call.wait_ms > 0:
            waits = settled(call.wait_ms, call.waits)
            reasons = {reason.value: ms for reason, ms in by_reason(waits)}
            self._record("waits", {"call": call.id, "wait_ms": call.wait_ms, "reasons": reasons})


def _place(call: Call) -> Key:
    """Level and ticket, without the turn of its tenant, which can change while it is held."""
    return call.key[-2:]


def _remembering(candidates: Iterable[Candidate], seen: list[Candidate]) -> Iterator[Candidate]:
    """The candidates, kept in *seen* as far as they were looked at."""
    for candidate in candidates:
        seen.append(candidate)
        yield candidate


def statistics_of(call: Call) -> CallStatistics:
    """The immutable summary of a call, live or gone."""
    return CallStatistics(
        level=call.level,
        service_ms=call.service_ms,
        wait_ms=call.wait_ms,
        preemptions=call.preemptions,
        demotions=call.demotions,
        promotions=call.promotions,
        waits=settled(call.wait_ms, call.waits),
    )
