"""The multi-level scheduler of one batch (paper section 4.2, Algorithm 1), as events.

    arrive ----> [waiting] --admit--> [running] --remove--> gone
                    ^  |                 |  |
     promote (level 0) +<----requeue-----+  step: charge, demote

A driver (engine, simulator, replay) reports what happened; this object keeps every call's level,
ticket, quantum and counters, and answers which calls come first. It never touches memory or
requests. Its clock is the sum of modelled step times, so time passes only when steps run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autellix_sgl.core.calls.cost import CostModel, StepWork
from autellix_sgl.core.calls.levels import Levels
from autellix_sgl.core.calls.model import Call, CallStamp, CallStatistics
from autellix_sgl.core.calls.policies import Policy
from autellix_sgl.core.calls.waits import Reason
from autellix_sgl.core.memory.no_memory import NoMemory
from autellix_sgl.core.memory.program_memory import ProgramMemory, Worth
from autellix_sgl.core.scheduling.decision_log import DecisionLog, Recorder, remembering
from autellix_sgl.core.scheduling.live_calls import LiveCalls
from autellix_sgl.core.scheduling.preemption import Candidate, Running, choose_victims
from autellix_sgl.core.scheduling.progression import Progression
from autellix_sgl.core.scheduling.shares import NoShares, Shares
from autellix_sgl.core.scheduling.starvation import Starvation
from autellix_sgl.errors import ConfigError, UnknownCall


class CallScheduler(LiveCalls):
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
        if interval < 1:
            raise ConfigError(f"schedule interval must be at least 1 step, got {interval}")
        levels = levels if policy.uses_levels else Levels.single()
        super().__init__(
            levels,
            NoShares() if share_turn_ms is None else Shares(share_turn_ms),
            NoMemory() if memory is None else memory,
            Starvation(starvation_ratio, levels),
        )
        self.policy = policy
        self.cost_model = cost_model
        self.interval = interval
        self._progression = Progression(policy, levels)
        # Looked up once: it is asked for each call of each step.
        self._charge_share = self._shares.charge
        self._steps_since_pass = 0
        self._urgent = False
        self._log = DecisionLog(record, sizes=self.memory.admits)
        self._log.start(
            policy=policy.name,
            levels=levels,
            cost_model=cost_model,
            pool_tokens=self.memory.pool_tokens,
            starvation_ratio=starvation_ratio,
            interval=interval,
            share_turn_ms=share_turn_ms,
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
        call = self._calls[call_id] = self._progression.enter(call_id, stamp, self.clock_ms)
        self._shares.open(call)
        self.memory.arrived(call, tokens, root, self.clock_ms)
        self._enqueue(call)
        self._note_urgency(call)
        self._log.arrive(call, self.clock_ms, tokens=tokens, root=root)
        return call

    def admit(self, call_id: str, tokens: int = 0, cached_tokens: int = 0) -> None:
        """A waiting call was taken into the batch."""
        call = self._expect(call_id, waiting=True)
        self._dequeue(call)
        self._running[call_id] = call
        self.memory.admitted(call, tokens, cached_tokens, self.clock_ms)
        self._log.admit(call, self.clock_ms, tokens=tokens, cached_tokens=cached_tokens)

    def requeue(self, call_id: str) -> None:
        """A running call was put back (preempted, parked or retracted); it keeps its place."""
        call = self._expect(call_id, waiting=False)
        del self._running[call_id]
        call.preemptions += 1
        call.queued_at_ms = self.clock_ms
        self._enqueue(call)
        self._log.call("requeue", call, self.clock_ms)

    def step(self, work: StepWork) -> None:
        """The executor was given one step of *work*: time passes, service and quanta are charged.

        Ids it does not know are passed over: under overlap a call that finished in the step before
        still takes part in one more.
        """
        self._pass_time(self.cost_model.step_ms(work))
        self._charge(self.cost_model.charges_ms(work))
        self._steps_since_pass += 1
        self._log.step(work, self.clock_ms)

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
        self._shares.close(call)
        self.memory.left(call, tokens, self.clock_ms)
        self._log.remove(call, self.clock_ms, tokens=tokens)
        return call.statistics()

    def end_program(self, program: str) -> None:
        """No further call of the program will come: its KV is of use to nobody."""
        self.memory.ended(program)
        self._log.end_program(program, self.clock_ms)

    def admit_programs(self) -> None:
        """Let programs in and put others out, if something has changed or a pass is due."""
        if self.memory.review_due(self.pass_due):
            self.review_programs()

    def review_programs(self) -> None:
        """Offer the calls of the programs that are let in, hold those of the others."""
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
        self.memory.use_cost_model(model)
        self._log.cost_model(model)

    # -- preemption passes ----------------------------------------------------------------------

    @property
    def pass_due(self) -> bool:
        """Whether it is time to consider preemption."""
        return self._urgent or self._steps_since_pass >= self.interval

    @property
    def steps_to_pass(self) -> int:
        """How many steps until a pass is due, if no better call arrives; 0 when one is due."""
        return 0 if self._urgent else max(0, self.interval - self._steps_since_pass)

    def begin_pass(self) -> None:
        """The driver considers preemption now; the count to the next pass starts again."""
        self._steps_since_pass = 0
        self._urgent = False

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

    # -- further questions ----------------------------------------------------------------------

    @property
    def starvation_ratio(self) -> float:
        return self._starvation.ratio

    @property
    def next_promotion_ms(self) -> float:
        """The clock reading at which a waiting call may next be due for promotion, or infinity.

        Never too late; too early when the entry's wait is over, which promote_starving clears.
        """
        return self._starvation.next_due_ms

    def worth(self, program: str | None, thread: str, used_ms: float) -> Worth:
        """What keeping a context in memory is worth; see :meth:`ProgramMemory.worth`."""
        return self.memory.worth(
            program, thread, used_ms, now_ms=self.clock_ms, before=self._calls_before
        )

    # -- inside ---------------------------------------------------------------------------------

    def _charge(self, charges: Iterable[tuple[str, float]]) -> None:
        """Charge each call its ms, if it runs here, its tenant too; who spends a quantum moves."""
        running, charge_share = self._running, self._charge_share
        for call_id, charge_ms in charges:
            call = running.get(call_id)
            if call is None:
                continue
            call.service_ms += charge_ms
            call.recent_service_ms += charge_ms
            call.quantum_left_ms -= charge_ms
            charge_share(call, charge_ms)
            if call.quantum_left_ms <= 0:
                self._progression.advance(call)
                self._waits.ran()

    def _promote(self, call: Call) -> None:
        self._dequeue(call)
        call.queued_at_ms = self.clock_ms
        call.recent_wait_ms = 0.0
        call.recent_service_ms = 0.0
        self._progression.promote(call)
        self._enqueue(call)
        self._note_urgency(call)
        self._log.call("promote", call, self.clock_ms)

    def _note_urgency(self, call: Call) -> None:
        """A call has begun to wait in a better place than before: is a pass due because of it?"""
        if call.held:
            self.memory.changed = True
        elif not self._urgent:
            key = call.key
            self._urgent = any(key < running.key for running in self._running.values())
