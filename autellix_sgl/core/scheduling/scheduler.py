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
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from autellix_sgl.core.calls.account import Account
from autellix_sgl.core.calls.cost import CostModel, StepWork
from autellix_sgl.core.calls.levels import Levels
from autellix_sgl.core.calls.model import Call, CallStamp, CallStatistics
from autellix_sgl.core.calls.policies import Policy
from autellix_sgl.core.calls.queue import CallQueue, Key
from autellix_sgl.core.calls.waits import Reason
from autellix_sgl.core.memory.program_memory import ProgramMemory, Worth
from autellix_sgl.core.scheduling.decision_log import DecisionLog, Recorder, remembering
from autellix_sgl.core.scheduling.preemption import Candidate, Running, choose_victims
from autellix_sgl.core.scheduling.shares import SharedQueue
from autellix_sgl.core.scheduling.starvation import Starvation
from autellix_sgl.core.scheduling.wait_reasons import WaitReasons
from autellix_sgl.errors import ConfigError, UnknownCall

# Tickets within one order of stamps; more calls than any server sees.
TICKETS_PER_ORDER = 2**40


class CallScheduler:
    """Levels, quanta, anti-starvation and order for the calls of one scheduler process.

    ``starvation_ratio`` is beta of Algorithm 1 (0: never promote). ``interval`` is N: a preemption
    pass is due after N steps, or at once when a call arrives that beats a running one.
    ``share_turn_ms``: tenants have shares, in turns of so much service (see ``shares``).
    With ``memory`` the KV of programs between their calls is watched, and calls may be held until
    their program is let in (see ``program_memory``).
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
        self.interval = interval
        self.clock_ms = 0.0
        self.memory = memory
        self._calls: dict[str, Call] = {}
        self._shares = None if share_turn_ms is None else SharedQueue(share_turn_ms)
        self._queue = CallQueue() if self._shares is None else self._shares
        # By level and ticket, whatever turn their tenants are in.
        self._held = CallQueue()
        self._running: dict[str, Call] = {}
        self._waits = WaitReasons(self._calls, self._queue, self._running)
        self._starvation = Starvation(starvation_ratio, self.levels)
        self._next_ticket = 0
        self._steps_since_pass = 0
        self._urgent = False
        self._log = DecisionLog(record)
        self._log.start(
            policy=policy.name,
            levels=self.levels,
            cost_model=cost_model,
            starvation_ratio=starvation_ratio,
            interval=interval,
            share_turn_ms=share_turn_ms,
            pool_tokens=memory.pool_tokens if memory is not None and memory.admits else None,
        )

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
        self._log.arrive(call, self.clock_ms, **self._sizes(tokens=tokens, root=root))
        return call

    def admit(self, call_id: str, tokens: int = 0, cached_tokens: int = 0) -> None:
        """A waiting call was taken into the batch."""
        call = self._expect(call_id, waiting=True)
        self._dequeue(call)
        self._running[call_id] = call
        if self.memory is not None:
            self.memory.admitted(call, tokens, cached_tokens, self.clock_ms)
        sizes = self._sizes(tokens=tokens, cached_tokens=cached_tokens)
        self._log.call("admit", call, self.clock_ms, **sizes)
        self._log.waits(call)

    def requeue(self, call_id: str) -> None:
        """A running call was put back (preempted, parked or retracted); it keeps its place."""
        call = self._expect(call_id, waiting=False)
        del self._running[call_id]
        call.preemptions += 1
        call.queued_at_ms = self.clock_ms
        self._enqueue(call)
        self._log.call("requeue", call, self.clock_ms)

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
        self._log.step(work, repeat, self.clock_ms)

    def remove(self, call_id: str, tokens: int = 0) -> CallStatistics:
        """A call left, finished or aborted, waiting or running; returns what it cost."""
        call = self._calls.pop(call_id, None)
        if call is None:
            raise UnknownCall(call_id, "left, but is not here")
        if call.waiting:
            self._dequeue(call)
        else:
            del self._running[call_id]
            self._waits.ran()
        if self._shares is not None:
            self._shares.close(call_id)
        if self.memory is not None:
            self.memory.left(call, tokens, self.clock_ms)
        self._log.call("remove", call, self.clock_ms, **self._sizes(tokens=tokens))
        self._log.waits(call)
        return call.statistics()

    def end_program(self, program: str) -> None:
        """No further call of the program will come: its KV is of use to nobody."""
        if self.memory is not None:
            self.memory.ended(program)
            if self.memory.admits:
                self._log.end_program(program, self.clock_ms)

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
        self._log.programs(review.let_in, review.put_out, self.clock_ms)

    def promote_starving(self) -> list[str]:
        """Move every waiting call whose wait outweighs its service to the top level.

        Algorithm 1's rule: (W + w) / (T + t) >= beta. Only the call's own w and t are zeroed: the
        program's other threads are due by the same W and T.
        """
        promoted: list[str] = []
        while (call_id := self._starvation.next_due(self.clock_ms)) is not None:
            self._promote(self._calls[call_id])
            promoted.append(call_id)
        return promoted

    def short_of(self, reason: Reason) -> None:
        """What the latest admission ran out of, memory or slots; it decides nothing."""
        if reason is not self._waits.short_of:
            self._waits.short_of = reason
            self._log.short_of(reason)

    def use_cost_model(self, model: CostModel) -> None:
        """Charge by *model* from the next step on."""
        self.cost_model = model
        if self.memory is not None:
            self.memory.use_cost_model(model)
        self._log.cost_model(model)

    def choose_victims(
        self,
        candidates: Iterable[Candidate],
        running: Sequence[Running],
        *,
        free_slots: int,
        free_tokens: int,
        min_steps_left: int,
    ) -> list[str]:
        """:func:`~autellix_sgl.core.scheduling.preemption.choose_victims`, recorded."""
        seen: list[Candidate] = []
        limits = {
            "free_slots": free_slots,
            "free_tokens": free_tokens,
            "min_steps_left": min_steps_left,
        }
        victims = choose_victims(remembering(candidates, seen), running, **limits)
        self._log.victims(seen, running, limits, victims)
        return victims

    # -- questions ------------------------------------------------------------------------------

    @property
    def starvation_ratio(self) -> float:
        return self._starvation.ratio

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
        return self._starvation.next_due_ms

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
        return self._waits.until_now(self.call(call_id), self.clock_ms)

    def accounts(self) -> Iterable[Account]:
        """The tenants' standing here, where they have shares."""
        return () if self._shares is None else self._shares.accounts()

    def head(self, limit: int) -> list[str]:
        """At most *limit* ids of calls that wait and are not held, best first."""
        return self._queue.head(limit)

    def offered(self) -> Iterator[str]:
        """The ids of all calls that wait and are not held, best first."""
        return iter(self._queue)

    def waiting(self) -> Iterator[str]:
        """All waiting call ids, best first; those that are held come last."""
        return chain(self._queue, self._held)

    def worst_that_never_ran(self) -> str | None:
        """Of the waiting calls that were never admitted the worst; held ones are worse than others.

        Costs a look at each call that ran before and waits behind it.
        """
        worst_first = chain(self._held.worst_first(), self._queue.worst_first())
        return next((c for _, c in worst_first if not self._calls[c].preemptions), None)

    def ids(self) -> Iterator[str]:
        """All calls, in the order of their arrival."""
        return iter(self._calls)

    def running(self) -> Iterator[str]:
        """The calls in the batch, in the order of their admission."""
        return iter(self._running)

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
            program, thread, used_ms, now_ms=self.clock_ms, rank_of=self._calls_before
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
            self._held.push(call.place, call.id)
        else:
            self._queue.push(call.key, call.id)
        self._waits.begin(call)
        self._starvation.begin(call, self.clock_ms)

    def _dequeue(self, call: Call) -> None:
        assert call.queued_at_ms is not None
        if call.held:
            self._held.remove(call.place)
        else:
            self._queue.remove(call.key)
        waited_ms = self.clock_ms - call.queued_at_ms
        self._waits.end(call, waited_ms)
        self._starvation.end(call)
        call.wait_ms += waited_ms
        call.recent_wait_ms += waited_ms
        call.queued_at_ms = None

    def _pass_time(self, ms: float) -> None:
        self.clock_ms += ms
        self._waits.pass_time(ms)

    def _charge_share(self, call: Call, charge_ms: float) -> None:
        account = call.account
        if account is None or self._shares is None:
            return
        before = account.turn
        if self._shares.charge(account, charge_ms):
            self._waits.turned(account, before)

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
            self._waits.ran()

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
        self._log.call("promote", call, self.clock_ms)

    def _note_urgency(self, call: Call) -> None:
        """A call has begun to wait in a better place than before: is a pass due because of it?"""
        if call.held and self.memory is not None:
            self.memory.changed = True
        elif not self._urgent:
            self._urgent = any(call.key < running.key for running in self._running.values())

    # -- programs that are not let in -----------------------------------------------------------

    def _is_held(self, call: Call) -> bool:
        return self.memory is not None and self.memory.holds(call.stamp.program)

    def _calls_before(self, key: Key, held: bool) -> int:
        """How many calls are before *key* among those that are held, or among those offered."""
        return self._held.rank(key[-2:]) if held else self._queue.rank(key)

    def _held_programs(self) -> Iterator[str]:
        """The programs of the held calls, the best call first, some more than once."""
        calls: Iterable[Call] = (self._calls[call_id] for call_id in self._held)
        if self._shares is not None:
            calls = sorted(calls, key=lambda call: call.key)
        return (call.stamp.program for call in calls)

    def _sizes(self, **tokens: int) -> dict[str, int]:
        """What a trace says of contexts: only what was decided by them."""
        return tokens if self.memory is not None and self.memory.admits else {}
