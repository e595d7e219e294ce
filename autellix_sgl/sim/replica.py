"""One simulated replica: slots, KV pool and step time around the same core as the engine's.

A round is one turn of the engine's loop, in its order: finished calls leave, arrivals are queued,
a preemption pass if one is due, admission, one step. Preempted calls go back in line after
admission. A round of decodes alone may stand for many: nothing can change before the next finish,
pass, promotion, event from outside or end of memory, so it jumps there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from autellix_sgl.core import CallStamp, Candidate, Reason, Running, StepWork
from autellix_sgl.errors import ConfigError
from autellix_sgl.sim.batch import DecodeBatch, SimCall
from autellix_sgl.sim.branch import Branch
from autellix_sgl.sim.eviction import EvictionOrder
from autellix_sgl.sim.hardware import ServerModel
from autellix_sgl.sim.jump import steps_within
from autellix_sgl.sim.optimum import RecordedCache
from autellix_sgl.sim.prefix_cache import PrefixCache
from autellix_sgl.sim.seam import Scheduler, preempts
from autellix_sgl.workloads import ProgramTrace, TracedCall

# Upstream's cap on the output tokens that admission keeps room for.
CLIP_NEW_TOKENS = 4096
# Candidates beyond the free slots that admission may look at, as in the engine.
SPARE_CANDIDATES = 1


@dataclass(slots=True)
class Counters:
    """Totals of one replica over a run. ``jumps``: rounds that stood for the ``steps``."""

    busy_ms: float = 0.0
    steps: int = 0
    jumps: int = 0
    decode_steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    recomputed_tokens: int = 0
    reloaded_tokens: int = 0
    preemptions: int = 0
    retractions: int = 0
    victim_passes: int = 0


class Replica:
    """Drive with :meth:`submit`, then :meth:`round` whenever idle or the last round is over.

    *order* says which contexts leave the pool first; *judged*: keep what it takes to say afterwards
    how many tokens the best order would have found.
    """

    def __init__(
        self,
        server: ServerModel,
        scheduler: Scheduler,
        order: EvictionOrder | None = None,
        *,
        judged: bool = False,
    ) -> None:
        self.server = server
        self.calls = scheduler
        made = RecordedCache if judged else PrefixCache
        self.cache = made(server.kv_tokens, shared=server.prefix_cache, order=order)
        self.counters = Counters()
        self._known: dict[str, SimCall] = {}
        self._inbox: list[tuple[str, TracedCall, Branch, CallStamp]] = []
        self._prefilling: list[SimCall] = []
        self._decoding = DecodeBatch()
        self._refused_for_memory = False
        self._preempts = preempts(scheduler)
        self._finished: list[SimCall] = []

    # -- what the simulation calls ----------------------------------------------------------------

    def submit(self, call_id: str, program: ProgramTrace, index: int, stamp: CallStamp) -> None:
        """A call reaches this replica; it is queued at the start of the next round."""
        call = program.calls[index]
        if call.context_tokens > self.server.kv_tokens:
            raise ConfigError(
                f"call {call_id} needs {call.context_tokens} tokens of KV, "
                f"the pool holds {self.server.kv_tokens}: use --scale or a larger pool"
            )
        branch = self.cache.branch_of(program, index)
        self._inbox.append((call_id, call, branch, stamp))

    def forget(self, program: ProgramTrace) -> None:
        """The program is over."""
        self.cache.forget(program)
        self.calls.end_program(program.id)

    def take_finished(self) -> list[SimCall]:
        """The calls that ended with the last round, in batch order; still known to the core."""
        finished, self._finished = self._finished, []
        for call in finished:
            del self._known[call.id]
        return finished

    def round(self, until_ms: float) -> float:
        """One turn of the loop; returns the time it takes, 0 if there is nothing to do.

        *until_ms* is how far from now the next event from outside is; a jump goes no further than
        the first step boundary at or past it.
        """
        for call_id, traced, branch, stamp in self._inbox:
            record = self.calls.arrive(call_id, stamp, traced.prompt_tokens, branch.root)
            self._known[call_id] = SimCall(record, call_id, traced, branch)
        self._inbox.clear()
        self.cache.clock_ms = self.calls.clock_ms
        self.calls.admit_programs()
        victims = self._preemption_pass()
        self._admit()
        for call in victims:
            self.calls.requeue(call.id)
        return self._step(until_ms)

    # -- the scheduling pass ----------------------------------------------------------------------

    def _preemption_pass(self) -> list[SimCall]:
        """Promote what starves and take out running calls that better ones should replace."""
        calls = self.calls
        if not calls.num_waiting:
            return []
        calls.promote_starving()
        if not self._preempts or not calls.pass_due:
            return []
        calls.begin_pass()
        best = calls.first_waiting_key()
        if best is None:
            return []
        victims = self._park(best)
        # Only a call that is worse than the best that waits can be a victim; mostly there is none.
        worse = [call for call in self._decoding if call.record.key > best]
        if worse:
            victims += self._make_way(worse)
        self.counters.preemptions += len(victims)
        return victims

    def _make_way(self, worse: list[SimCall]) -> list[SimCall]:
        """The walk of Algorithm 1 over the waiting calls and the running calls *worse* than one."""
        self.counters.victim_passes += 1
        chosen = self.calls.choose_victims(
            self._candidates(),
            [self._as_running(call) for call in worse],
            free_slots=self.server.slots - self._num_running,
            free_tokens=self._free_tokens(),
            min_steps_left=self.server.min_steps_left,
        )
        victims = [self._decoding[call_id] for call_id in chosen]
        for call in victims:
            self._leave_batch(call)
        return victims

    def _candidates(self) -> Iterator[Candidate]:
        """The waiting calls, best first, as far as the step's prefill budget reaches.

        Beyond it nobody is admitted now, so making way would only idle the victims' slots.
        """
        budget = self._prefill_budget()
        for call_id in self.calls.offered():
            if budget <= 0:
                return
            call = self._known[call_id]
            budget -= max(1, call.length - self.cache.matched(call.branch, call.length))
            asked = self._asked_tokens(call) if self._refused_for_memory else 0
            yield Candidate(call.record.key, asked)

    def _as_running(self, call: SimCall) -> Running:
        left = call.end - self._decoding.steps
        length = self._decoding.length_of(call)
        reserved = int(min(left, CLIP_NEW_TOKENS) * self.server.reserve)
        return Running(call.id, call.record.key, length + reserved, left)

    def _park(self, best: object) -> list[SimCall]:
        """Take a half-done prefill out of a better call's way; the last chunk is let through."""
        parked = []
        for call in self._prefilling:
            key = call.record.key
            if key > best and call.prefill_left > self.server.chunk_tokens:
                self.cache.release(call.branch, call.length - call.prefill_left, 0)
                parked.append(call)
        self._prefilling = [call for call in self._prefilling if call not in parked]
        return parked

    # -- admission --------------------------------------------------------------------------------

    @property
    def _num_running(self) -> int:
        return len(self._decoding) + len(self._prefilling)

    def _prefill_budget(self) -> int:
        """Prefill tokens the next step has room for beside the half-done, which may leave none."""
        taken = len(self._decoding) if self.server.mixed else 0
        return self.server.chunk_tokens - taken - sum(c.prefill_left for c in self._prefilling)

    def _asked_tokens(self, call: SimCall) -> int:
        """KV that admission wants for a call: what is not cached, and room for its output."""
        missing = call.length - self.cache.matched(call.branch, call.length)
        return missing + int(min(call.output_left, CLIP_NEW_TOKENS) * self.server.reserve)

    def _free_tokens(self) -> int:
        """Free or evictable KV, less what running calls may still write."""
        return self.cache.available - int(self._decoding.tokens_left * self.server.reserve)

    def _admit(self) -> None:
        """Fill the step's token budget: the half-done prefill first, then the head of the queue."""
        self._fill_batch()
        self.calls.short_of(Reason.MEMORY if self._refused_for_memory else Reason.SLOTS)

    def _fill_batch(self) -> None:
        self._refused_for_memory = False
        budget = self._prefill_budget()
        slots = self.server.slots - self._num_running
        if slots <= 0 or budget <= 0 or not self.calls.num_waiting:
            return
        free = self._free_tokens()
        for call_id in self.calls.head(slots + SPARE_CANDIDATES):
            if slots <= 0 or budget <= 0:
                return
            call = self._known[call_id]
            # As upstream, which locks what is cached before it looks again at what is left.
            unlocked = self.cache.unlocked(call.branch, call.length)
            if self._asked_tokens(call) + unlocked > free and self._num_running:
                self._refused_for_memory = True
                return
            before = self.cache.locked
            self._start(call)
            reserved = int(min(call.output_left, CLIP_NEW_TOKENS) * self.server.reserve)
            free -= self.cache.locked - before + reserved
            budget -= call.prefill_left
            slots -= 1

    def _start(self, call: SimCall) -> None:
        """Into the batch: lock its context, count what is cached and what is to be computed."""
        cached = min(self.cache.matched(call.branch, call.length), call.length - 1)
        reloaded = 0
        if self.server.swap_cost < 1:
            known = min(self.cache.written(call.branch, call.length), call.length - 1)
            reloaded = known - cached
        computed = call.length - cached - reloaded  # at least the last token
        call.prefill_left = computed + round(reloaded * self.server.swap_cost)
        self.counters.reloaded_tokens += reloaded
        if call.record.preemptions:
            self.counters.recomputed_tokens += computed
        else:
            self.counters.prompt_tokens += call.length
            self.counters.cached_tokens += cached
            call.cached_tokens = call.length - call.prefill_left
        self.cache.acquire(call.branch, call.length, again=bool(call.record.preemptions))
        self.calls.admit(call.id, call.length, cached)
        self._prefilling.append(call)

    # -- the step ---------------------------------------------------------------------------------

    def _step(self, until_ms: float) -> float:
        self._make_room()
        prefills = self._cut_chunks()
        decode = bool(self._decoding) and (self.server.mixed or not prefills)
        if not prefills and not decode:
            return 0.0
        work = StepWork(
            prefills=prefills,
            decodes=self._decoding.ids if decode else (),
            context_tokens=self._decoding.context_tokens if decode else 0,
        )
        repeat = 1 if prefills else self._jump(work, until_ms)
        before = self.calls.clock_ms
        self.calls.step(work, repeat)
        if decode:
            self._advance(repeat)
        self._end_prefills()
        self.counters.steps += repeat
        self.counters.jumps += 1
        took = self.calls.clock_ms - before
        self.counters.busy_ms += took
        return took

    def _cut_chunks(self) -> tuple[tuple[str, int], ...]:
        """This step's share of the prefills; what is over the budget stays for the next."""
        budget = self.server.chunk_tokens - (len(self._decoding) if self.server.mixed else 0)
        chunks = []
        for call in self._prefilling:
            tokens = min(call.prefill_left, budget)
            if tokens <= 0:
                break
            chunks.append((call.id, tokens))
            call.prefill_left -= tokens
            budget -= tokens
            self.counters.computed_tokens += tokens
        return tuple(chunks)

    def _jump(self, work: StepWork, until_ms: float) -> int:
        """How many times this decode step can be repeated before anything can change."""
        steps = self._decoding.steps_to_next_end
        steps = min(steps, self.cache.available // len(work.decodes))
        if self.calls.num_waiting:
            if self._preempts:
                steps = min(steps, max(1, self.calls.steps_to_pass))
            until_ms = min(until_ms, self.calls.next_promotion_ms - self.calls.clock_ms)
        if steps > 1 and until_ms < math.inf:
            steps = min(steps, steps_within(self.calls.cost_model, work, until_ms))
        return max(1, steps)

    def _advance(self, steps: int) -> None:
        """Every decoding call has written *steps* more tokens; those that are done leave."""
        self.counters.decode_steps += steps
        done = self._decoding.advance(steps)
        self.cache.grow(steps * len(self._decoding))
        for call in done:
            self._finish(call)

    def _end_prefills(self) -> None:
        """Completed prefills have produced a token: the call decodes on, or is done."""
        if not self._prefilling:
            return
        done = [call for call in self._prefilling if not call.prefill_left]
        self._prefilling = [call for call in self._prefilling if call.prefill_left]
        for call in done:
            call.length += 1
            call.output_left -= 1
            self.cache.grow(1)
            self._decoding.join(call)
            if not call.output_left:
                self._finish(call)

    def _finish(self, call: SimCall) -> None:
        self._leave_batch(call)
        self._finished.append(call)

    def _leave_batch(self, call: SimCall) -> None:
        """Out of the decoding batch; its tokens stay in the tree until they are evicted."""
        decoded = self._decoding.leave(call)
        # The token that ended the prefill was written through the pool's grow, too.
        self.cache.release(call.branch, call.length, decoded + 1)

    def _make_room(self) -> None:
        """Under memory pressure give up the worst calls until one more decode step fits."""
        while len(self._decoding) > 1 and self.cache.available < self._num_running:
            worst = max(self._decoding, key=lambda c: c.record.key)
            self._leave_batch(worst)
            self.calls.requeue(worst.id)
            self.counters.retractions += 1
