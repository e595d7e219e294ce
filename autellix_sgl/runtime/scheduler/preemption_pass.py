"""Who is preempted for whom in a scheduler's batch: the preemption pass, and memory pressure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.managers.schedule_policy import CLIP_MAX_NEW_TOKENS
from sglang.srt.managers.scheduler_components.new_token_ratio_tracker import NewTokenRatioTracker

from autellix_sgl.core import Candidate, Running
from autellix_sgl.core.calls.queue import Key
from autellix_sgl.runtime.scheduler.preemption import (
    PREEMPTION_COST_STEPS,
    can_be_preempted,
    preempt,
    release,
    steps_left,
)
from autellix_sgl.runtime.scheduler.room import Length, Room, room_in, short_of
from autellix_sgl.runtime.scheduler.view import BatchView


class PreemptionPass:
    """Takes running calls of *scheduler* out of its batch. It does not queue them again.

    ``memory_is_short``: the last admission had slots left and no room in the KV pool.
    ``was_full``: the last admission left the batch full.
    """

    def __init__(self, scheduler: BatchView) -> None:
        self._scheduler = scheduler
        self.memory_is_short = False
        self.was_full = False

    # -- the preemption pass --------------------------------------------------------------------

    def consider(self, running_batch: ScheduleBatch) -> list[Req]:
        """Promote what starves and take out running calls that better ones should replace.

        Returns the requests taken out, worst first.
        """
        calls, counters = self._scheduler.calls, self._scheduler.counters
        counters.promotions += len(calls.promote_starving())
        best = calls.first_waiting_key()
        if not calls.policy.uses_levels:
            return []
        if best is None or not calls.pass_due:
            if self.was_full and running_batch.reqs:
                # Upstream looks again as soon as a call has finished. The next pass does: calls
                # that take the slots together hold the others up once.
                running_batch.batch_is_full = True
            return []
        calls.begin_pass()
        with counters.time_pass():
            return self._pass(running_batch, best)

    def _pass(self, running_batch: ScheduleBatch, best: Key) -> list[Req]:
        """The walk of Algorithm 1 over waiting and running calls."""
        calls, ledger = self._scheduler.calls, self._scheduler.ledger
        parked = self._park_chunked_prefill(best)
        if any(req.finished() for req in running_batch.reqs):
            running_batch.filter_batch()
        # Let upstream look again: slots have fallen free, or the head of the queue, for which the
        # pool had no room, is another call.
        running_batch.batch_is_full = False
        by_id = {req.rid: req for req in running_batch.reqs}
        room = self._room(running_batch)
        chosen = calls.choose_victims(
            self._candidates(room),
            [self._as_running(req, room) for req in running_batch.reqs if req in ledger],
            free_slots=self._scheduler.free_slots(running_batch),
            free_tokens=room.free,
            min_steps_left=PREEMPTION_COST_STEPS + 1,
        )
        victims = [by_id[rid] for rid in chosen]
        if victims:
            self._take_out(running_batch, victims)
        self._scheduler.counters.preemptions += len(victims)
        return parked + victims

    def _candidates(self, room: Room) -> Iterator[Candidate]:
        """The waiting calls, best first, with what they ask of memory if memory is short."""
        scheduler = self._scheduler
        for req in scheduler.waiting.offered():
            tokens = room.taken_by(self._asked_tokens(req)) if self.memory_is_short else 0
            yield Candidate(self._key(req, waiting=True), tokens)

    def _asked_tokens(self, req: Req) -> int:
        """What upstream's admission asks of the pool for a waiting request."""
        new_tokens = min(steps_left(req), CLIP_MAX_NEW_TOKENS)
        known = req.seqlen - req.num_matched_prefix_tokens
        return int(known + new_tokens + self._scheduler.page_size)

    def _as_running(self, req: Req, room: Room) -> Running:
        return Running(
            id=req.rid,
            key=self._key(req, waiting=False),
            tokens=room.taken_by(req.seqlen + self._reserved_tokens(req)),
            steps_left=steps_left(req),
            preemptible=can_be_preempted(req) and not self._has_logprobs_in_flight(req),
        )

    def _key(self, req: Req, *, waiting: bool) -> Key:
        return self._comparable(self._scheduler.calls.call(req.rid).key, waiting=waiting)

    def _comparable(self, key: Key, *, waiting: bool) -> Key:
        """What decides who is preempted for whom.

        With lpm a level has no order of its own that a later arrival could break: only a better
        level preempts, so between equals the one that runs wins.
        """
        return (*key[:-1], int(waiting)) if self._scheduler.schedule_policy == "lpm" else key

    def _has_logprobs_in_flight(self, req: Req) -> bool:
        """Whether the request sits in an unprocessed prefill that returns log-probabilities.

        Upstream walks such a result with one cursor over all its requests and does not move it for
        a retracted one, so the others would read the wrong values.
        """
        last = self._scheduler.last_batch
        return bool(
            self._scheduler.enable_overlap
            and last is not None
            and last.forward_mode.is_extend()
            and last.return_logprob
            and (req in last.reqs or req is last.chunked_req)
        )

    def _reserved_tokens(self, req: Req) -> int:
        """What upstream's admission sets aside for the tokens a running request may still make."""
        left = min(steps_left(req), CLIP_MAX_NEW_TOKENS)
        # What does not stop by itself will make them all.
        whole = req.sampling_params.ignore_eos
        return int(left if whole else left * self._scheduler.new_token_ratio_tracker.current)

    def _room(self, running_batch: ScheduleBatch) -> Room:
        """Of the KV pool that is short, if memory is; else nobody asks for any."""
        if not self.memory_is_short:
            return Room(free=0)
        scheduler = self._scheduler
        budget = self._budget()
        running = [Length(req.seqlen, self._reserved_tokens(req)) for req in running_batch.reqs]
        every = room_in(int(budget.remaining_total), running)
        best = next(scheduler.waiting.offered(), None)
        if best is None or not scheduler.is_hybrid_swa:
            return every
        window = scheduler.tree_cache.sliding_window_size + scheduler.page_size
        of_window = room_in(int(budget.remaining_swa), running, window)
        return short_of(self._asked_tokens(best), (every, of_window))

    def _budget(self) -> Any:
        """What SGLang's admission would find free or evictable now, in each pool."""
        scheduler = self._scheduler
        return scheduler.token_to_kv_pool_allocator.create_prefill_budget(scheduler.tree_cache)

    def _evictable(self) -> int:
        """Tokens that are free or can be evicted now, over all pools."""
        budget = self._budget()
        of_window = budget.remaining_swa if self._scheduler.is_hybrid_swa else 0
        return int(budget.remaining_total + of_window)

    def _park_chunked_prefill(self, best: Key) -> list[Req]:
        """Take a half-done prefill out of the way of a better call; its chunks stay in the tree.

        Upstream continues the one chunked request before it admits anything else. The last chunk is
        let through: it leaves room in its step for others.
        """
        scheduler = self._scheduler
        req = scheduler.chunked_req
        if (
            req is None
            or req is scheduler._pending_chunked_abort_req
            or req not in scheduler.ledger
            or self._key(req, waiting=False) < self._comparable(best, waiting=True)
            or not can_be_preempted(req)
            or self._has_logprobs_in_flight(req)
            or req.seqlen - req.kv.kv_committed_len <= scheduler.chunked_prefill_size
        ):
            return []
        scheduler.chunked_req = None
        self._before_release([req])
        release(req, scheduler.tree_cache)
        scheduler.counters.parked_prefills += 1
        return [req]

    # -- memory pressure ------------------------------------------------------------------------

    def make_room(self, batch: ScheduleBatch) -> list[Req]:
        """Preempt the worst calls until the next decode step fits the KV pool.

        A victim whose context could not be evicted although it left (something has it locked) has
        made no room. The ones after it do not leave theirs in the tree: that frees it at once.
        """
        scheduler = self._scheduler
        victims: list[Req] = []
        if scheduler._reqs_finishing_inflight(batch):
            # Upstream leaves them out of the step, and if the others do not fit, waits a step for
            # what they have.
            return victims
        keep = True
        while len(batch.reqs) > 1 and not batch.check_decode_mem():
            candidates = [r for r in batch.reqs if r in scheduler.ledger and can_be_preempted(r)]
            if not candidates:
                break  # upstream's retraction knows what to do with the rest
            worst = max(candidates, key=lambda r: scheduler.calls.call(r.rid).key)
            before = self._evictable()
            self._take_out(batch, [worst], keep=keep)
            keep = keep and self._evictable() > before
            victims.append(worst)
        if victims:
            # As upstream does when it retracts: expect longer outputs, admit less eagerly.
            scheduler.new_token_ratio_tracker.current = (
                NewTokenRatioTracker.estimate_new_token_ratio_after_retract(batch.reqs)
            )
            scheduler.counters.retractions += len(victims)
            self.was_full = False
        return victims

    def _take_out(self, batch: ScheduleBatch, victims: list[Req], *, keep: bool = True) -> None:
        self._before_release(victims)
        preempt(batch, victims, keep=keep)

    def _before_release(self, victims: list[Req]) -> None:
        """Before they leave the batch.

        With a host tier what they leave can be copied there in this very step, and under overlap
        the step that writes its last tokens may not have run yet: the copy has to wait for it.
        """
        scheduler = self._scheduler
        scheduler.digest.taken_out([req.rid for req in victims])
        scheduler.recomputation.taken_out(victims)
        if scheduler.enable_overlap and scheduler.enable_hierarchical_cache:
            scheduler.schedule_stream.wait_stream(scheduler.forward_stream)
