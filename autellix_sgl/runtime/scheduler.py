"""SGLang's Scheduler with program scheduling: what it overrides, and why each override is enough.

    waiting_queue          a WaitingCalls: upstream's queue, ordered by the core
    get_new_batch_prefill  preempt if a pass is due, then let upstream admit from a short window
    update_running_batch   under memory pressure give up the worst calls, KV kept, before upstream
                           would retract by output length and drop it
    run_batch              charge the step
    process_batch_result   forget the calls that finished
    set/get_internal_state the cost model comes in, samples and status go out

Upstream admits, allocates, prefills, decodes and streams as ever. Nothing here reads a clock to
decide: all tensor-parallel ranks see the same messages and batches, so they decide alike.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from sglang.srt.managers.io_struct import (
    GetInternalStateReq,
    GetInternalStateReqOutput,
    SetInternalStateReq,
    SetInternalStateReqOutput,
    TokenizedGenerateReqInput,
)
from sglang.srt.managers.schedule_batch import NextBatchPlan, Req, ScheduleBatch
from sglang.srt.managers.schedule_policy import CLIP_MAX_NEW_TOKENS
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components.new_token_ratio_tracker import NewTokenRatioTracker
from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer
from sglang.srt.runtime_context import get_parallel, get_serving
from sglang.srt.server_args import PortArgs, ServerArgs

from autellix_sgl.config import ProgramArgs
from autellix_sgl.core import (
    SHARE_TURN_MS,
    CallScheduler,
    CallStamp,
    Candidate,
    CostModel,
    Reason,
    Running,
    StepWork,
)
from autellix_sgl.core.cost import COEFFICIENTS
from autellix_sgl.core.queue import Key
from autellix_sgl.decision_trace import TraceWriter
from autellix_sgl.runtime.activation import ProcessReport
from autellix_sgl.runtime.decision_digest import DecisionDigest
from autellix_sgl.runtime.metrics import SchedulerMetrics
from autellix_sgl.runtime.output_streamer import ProgramOutputStreamer
from autellix_sgl.runtime.preemption import (
    PREEMPTION_COST_STEPS,
    can_be_preempted,
    preempt,
    release_into_tree,
    steps_left,
)
from autellix_sgl.runtime.schedule_policy import LevelSchedulePolicy
from autellix_sgl.runtime.scheduler_counters import SchedulerCounters
from autellix_sgl.runtime.step_clock import StepClock
from autellix_sgl.runtime.waiting import AdmissionWindow, WaitingCalls
from autellix_sgl.runtime.wire import (
    CALLS_KEY,
    CallReport,
    ExplainCallsReq,
    ProgramGenerateReqInput,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Candidates beyond the free slots that admission may look at: a few for lpm to choose among, more
# when upstream may pass over requests whose LoRA adapter is not loaded.
SPARE_CANDIDATES = 1
SPARE_CANDIDATES_LPM = 16
SPARE_CANDIDATES_LORA = 64

# Of the tenants that have shares, those that are shown in the internal state.
STANDINGS_SHOWN = 100

COST_KEY_PREFIX = "program_cost_"


class ProgramScheduler(Scheduler):  # type: ignore[misc]
    """One replica's scheduler; see the module docstring."""

    def __init__(
        self,
        server_args: ServerArgs,
        port_args: PortArgs,
        *,
        program_args: ProgramArgs,
        report: ProcessReport,
    ) -> None:
        self.program_args = program_args
        self._stamps: dict[str, CallStamp] = {}
        # Tokens a request that was taken out had computed; tokens computed a second time.
        self._computed: dict[str, int] = {}
        self._recomputed: dict[str, int] = {}
        self._refused_for_memory = False
        self._address = port_args.scheduler_input_ipc_name
        self.counters = SchedulerCounters()
        self.digest = DecisionDigest()
        super().__init__(server_args, port_args)
        self.process_reports = self._gather(report)
        self.metrics = self._make_metrics()

    # -- construction ---------------------------------------------------------------------------

    def init_running_status(self) -> None:
        super().init_running_status()
        args = self.program_args
        self.trace = self._open_trace()
        # A full batch has a turn's service in the time of a turn.
        turn_ms = None if args.shares is None else SHARE_TURN_MS * self.max_running_requests
        self.calls = CallScheduler(
            args.core_policy(),
            args.core_levels(),
            args.initial_cost_model(),
            starvation_ratio=args.starvation_ratio,
            interval=args.schedule_interval,
            share_turn_ms=turn_ms,
            record=self.trace.record if self.trace else None,
        )
        self.waiting_queue: WaitingCalls | AdmissionWindow = WaitingCalls(
            self.calls, self._stamps, self._forget
        )
        self.step_clock = StepClock(synchronous=self.device == "cpu")

    def init_schedule_policy(self) -> None:
        super().init_schedule_policy()
        self.policy = LevelSchedulePolicy(
            self.schedule_policy,
            self.tree_cache,
            self.enable_hierarchical_cache,
            self.enable_priority_scheduling,
            self.schedule_low_priority_values_first,
            rank_of=lambda req: self.calls.call(req.rid).rank,
        )

    def get_output_streamer_class(self) -> type[SchedulerOutputStreamer]:
        return ProgramOutputStreamer

    def init_output_streamer(self) -> None:
        super().init_output_streamer()
        self.output_streamer.report_of = self._report_of

    def _open_trace(self) -> TraceWriter | None:
        """The replica's decision log, if one was asked for and this rank leads it."""
        path = self.program_args.trace
        if path is None or not self._is_leader:
            return None
        return TraceWriter.open(Path(path if self._replica == 0 else f"{path}.{self._replica}"))

    @property
    def _replica(self) -> int:
        return int(get_parallel().dp_rank or 0)

    @property
    def _is_leader(self) -> bool:
        """Whether this rank is the one that talks to the other processes."""
        return bool(get_parallel().attn_tp_rank == 0)

    def _gather(self, mine: T) -> list[T]:
        """What every tensor-parallel rank has here, so that rank 0 can answer for all.

        All ranks must come to this at the same point of the same loop.
        """
        if get_parallel().tp_size == 1:
            return [mine]
        every: list[T] = [mine] * get_parallel().tp_size
        torch.distributed.all_gather_object(every, mine, group=self.tp_cpu_group)
        return every

    def _make_metrics(self) -> SchedulerMetrics | None:
        if not (self.metrics_reporter.enable_metrics and self._is_leader):
            return None
        return SchedulerMetrics(
            model=get_serving().served_model_name,
            replica=self._replica,
            levels=self.calls.levels.count,
        )

    # -- arrival and departure ------------------------------------------------------------------

    def handle_generate_request(
        self, recv_req: TokenizedGenerateReqInput, *, mm_input_error: str | None = None
    ) -> None:
        if isinstance(recv_req, ProgramGenerateReqInput):
            # Read when the request is queued, now or once its grammar has been compiled.
            self._stamps[recv_req.rid] = recv_req.program.stamp()
        super().handle_generate_request(recv_req, mm_input_error=mm_input_error)

    def process_batch_result(self, batch: ScheduleBatch, result: Any) -> None:
        super().process_batch_result(batch, result)
        if not self.step_clock.synchronous:
            self.step_clock.finished()
        for req in batch.reqs:
            if req.finished():
                self._forget(req)

    def process_pending_chunked_abort(self) -> None:
        req = self._pending_chunked_abort_req
        super().process_pending_chunked_abort()
        if req is not None and req.finished():
            self._forget(req)

    def _forget(self, req: Req) -> None:
        """The request left for good, from wherever it was."""
        if req.rid in self.calls:
            self.calls.remove(req.rid)
        self._stamps.pop(req.rid, None)
        self._computed.pop(req.rid, None)
        self._recomputed.pop(req.rid, None)

    def _report_of(self, req: Req) -> CallReport | None:
        if req.rid not in self.calls:
            return None
        statistics = self.calls.call(req.rid).statistics()
        return CallReport(
            replica=self._replica,
            level=statistics.level,
            service_ms=statistics.service_ms,
            wait_ms=statistics.wait_ms,
            preemptions=statistics.preemptions,
            demotions=statistics.demotions,
            promotions=statistics.promotions,
            recomputed_tokens=self._recomputed.get(req.rid, 0),
            waits=statistics.waits,
        )

    # -- the scheduling pass --------------------------------------------------------------------

    def get_new_batch_prefill(self, running_batch: ScheduleBatch) -> NextBatchPlan:
        victims = self._preemption_pass(running_batch)
        plan = self._admit(running_batch)
        # Only now: a victim admitted again in the pass that took it out would have its skipped
        # result in flight counted after all.
        for req in victims:
            self._put_back(req)
        return plan

    def _admit(self, running_batch: ScheduleBatch) -> NextBatchPlan:
        """Upstream's admission, over the head of the queue instead of the whole of it."""
        queue = self.waiting_queue
        assert isinstance(queue, WaitingCalls)
        free_slots = self._free_slots(running_batch)
        window = queue.window(max(free_slots, 0) + self._spare_candidates)
        self.waiting_queue = window
        try:
            plan = super().get_new_batch_prefill(running_batch)
        finally:
            left, self.waiting_queue = self.waiting_queue, queue
        still_waiting = {id(req) for req in left}
        for req in window.offered:
            if id(req) not in still_waiting:
                queue.admit(req)
                self._count_recomputed(req)
        admitted = len(window.offered) - len(left)
        self._refused_for_memory = (
            bool(left) and free_slots > admitted and plan.running_batch.batch_is_full
        )
        self.calls.short_of(Reason.MEMORY if self._refused_for_memory else Reason.SLOTS)
        return plan

    def _remember_computed(self, taken_out: Iterable[Req]) -> None:
        """Before requests leave the batch: how many tokens of each have been computed."""
        for req in taken_out:
            self._computed[req.rid] = req.kv.kv_committed_len

    def _count_recomputed(self, req: Req) -> None:
        """When one comes back: the computed tokens that the tree does not hold any more."""
        lost = self._computed.pop(req.rid, 0) - len(req.prefix_indices)
        if lost > 0:
            self._recomputed[req.rid] = self._recomputed.get(req.rid, 0) + lost
            self.counters.recomputed_tokens += lost

    @property
    def _spare_candidates(self) -> int:
        if self.enable_lora:
            return SPARE_CANDIDATES_LORA
        return SPARE_CANDIDATES_LPM if self.schedule_policy == "lpm" else SPARE_CANDIDATES

    def _free_slots(self, running_batch: ScheduleBatch) -> int:
        return int(
            self.get_num_allocatable_reqs(len(running_batch.reqs), running_batch=running_batch)
        )

    def _preemption_pass(self, running_batch: ScheduleBatch) -> list[Req]:
        """Promote what starves and take out running calls that better ones should replace.

        Returns the requests taken out, worst first; they wait, but are not queued yet.
        """
        calls = self.calls
        self.counters.promotions += len(calls.promote_starving())
        best = calls.first_waiting_key()
        if best is None or not calls.pass_due or not calls.policy.uses_levels:
            return []
        calls.begin_pass()
        with self.counters.time_pass():
            return self._make_way(running_batch, best)

    def _make_way(self, running_batch: ScheduleBatch, best: Key) -> list[Req]:
        """One preemption pass: the walk of Algorithm 1 over waiting and running calls."""
        calls = self.calls
        parked = self._park_chunked_prefill(best)
        if any(req.finished() for req in running_batch.reqs):
            running_batch.filter_batch()
            running_batch.batch_is_full = False
        by_id = {req.rid: req for req in running_batch.reqs}
        chosen = calls.choose_victims(
            self._candidates(),
            [self._as_running(req) for req in running_batch.reqs if req.rid in calls],
            free_slots=self._free_slots(running_batch),
            free_tokens=self._free_tokens(running_batch),
            min_steps_left=PREEMPTION_COST_STEPS + 1,
        )
        victims = [by_id[rid] for rid in chosen]
        if victims:
            self.digest.taken_out(chosen)
            self._remember_computed(victims)
            preempt(running_batch, victims)
        elif self._refused_for_memory:
            # The head of the queue may be another call by now; let upstream look again.
            running_batch.batch_is_full = False
        self.counters.preemptions += len(victims)
        return parked + victims

    def _candidates(self) -> Iterator[Candidate]:
        """The waiting calls, best first, with what they ask of memory if memory is short."""
        for req in self.waiting_queue:
            tokens = 0
            if self._refused_for_memory:
                new_tokens = min(steps_left(req), CLIP_MAX_NEW_TOKENS)
                tokens = req.seqlen - req.num_matched_prefix_tokens + new_tokens + self.page_size
            yield Candidate(
                self._preemption_key(self.calls.call(req.rid).key, waiting=True), tokens
            )

    def _as_running(self, req: Req) -> Running:
        return Running(
            id=req.rid,
            key=self._preemption_key(self.calls.call(req.rid).key, waiting=False),
            tokens=req.seqlen + self._reserved_tokens(req),
            steps_left=steps_left(req),
            preemptible=can_be_preempted(req) and not self._has_logprobs_in_flight(req),
        )

    def _preemption_key(self, key: Key, *, waiting: bool) -> Key:
        """What decides who makes way for whom.

        With lpm a level has no order of its own that a later arrival could break: only a better
        level preempts, so between equals the one that runs wins.
        """
        return (*key[:-1], int(waiting)) if self.schedule_policy == "lpm" else key

    def _has_logprobs_in_flight(self, req: Req) -> bool:
        """Whether the request sits in an unprocessed prefill that returns log-probabilities.

        Upstream walks such a result with one cursor over all its requests and does not move it for
        a retracted one, so the others would read the wrong values.
        """
        last = self.last_batch
        return bool(
            self.enable_overlap
            and last is not None
            and last.forward_mode.is_extend()
            and last.return_logprob
            and (req in last.reqs or req is last.chunked_req)
        )

    def _reserved_tokens(self, req: Req) -> int:
        """What upstream's admission sets aside for the tokens a running request may still make."""
        left = min(steps_left(req), CLIP_MAX_NEW_TOKENS)
        return int(left * self.new_token_ratio_tracker.current)

    def _free_tokens(self, running_batch: ScheduleBatch) -> int:
        budget = self.token_to_kv_pool_allocator.create_prefill_budget(self.tree_cache)
        reserved = sum(self._reserved_tokens(req) for req in running_batch.reqs)
        return int(budget.remaining_total) - reserved

    def _park_chunked_prefill(self, best: Key) -> list[Req]:
        """Take a half-done prefill out of the way of a better call; its chunks stay in the tree.

        Upstream continues the one chunked request before it admits anything else. The last chunk is
        let through: it leaves room in its step for others.
        """
        req = self.chunked_req
        if (
            req is None
            or req is self._pending_chunked_abort_req
            or req.rid not in self.calls
            or self._preemption_key(self.calls.call(req.rid).key, waiting=False)
            < self._preemption_key(best, waiting=True)
            or not can_be_preempted(req)
            or self._has_logprobs_in_flight(req)
            or req.seqlen - req.kv.kv_committed_len <= self.chunked_prefill_size
        ):
            return []
        self.chunked_req: Req | None = None
        self.digest.taken_out([req.rid])
        self._remember_computed([req])
        release_into_tree(req, self.tree_cache)
        self.counters.parked_prefills += 1
        return [req]

    def _put_back(self, req: Req) -> None:
        self.waiting_queue.append(req)
        req.time_stats.set_wait_queue_entry_time()

    # -- memory pressure ------------------------------------------------------------------------

    def update_running_batch(self, batch: ScheduleBatch) -> ScheduleBatch:
        victims = self._make_room(batch)
        before = list(batch.reqs)
        batch = super().update_running_batch(batch)
        for req in victims:
            self._put_back(req)
        staying = {id(req) for req in batch.reqs}
        for req in before:
            # Upstream aborts a request that cannot fit even alone, without a result for it.
            if id(req) not in staying and req.to_finish is not None:
                self._forget(req)
        return batch

    def _make_room(self, batch: ScheduleBatch) -> list[Req]:
        """Preempt the worst calls until the next decode step fits the KV pool."""
        batch.filter_batch()
        victims: list[Req] = []
        while len(batch.reqs) > 1 and not batch.check_decode_mem():
            candidates = [r for r in batch.reqs if r.rid in self.calls and can_be_preempted(r)]
            if not candidates:
                break  # upstream's retraction knows what to do with the rest
            worst = max(candidates, key=lambda r: self.calls.call(r.rid).key)
            self.digest.taken_out([worst.rid])
            self._remember_computed([worst])
            preempt(batch, [worst])
            victims.append(worst)
        if victims:
            # As upstream does when it retracts: expect longer outputs, admit less eagerly.
            self.new_token_ratio_tracker.current = (
                NewTokenRatioTracker.estimate_new_token_ratio_after_retract(batch.reqs)
            )
            self.counters.retractions += len(victims)
        return victims

    # -- service --------------------------------------------------------------------------------

    def run_batch(self, batch: ScheduleBatch, pp_proxy_tensors: Any = None) -> Any:
        work = work_of(batch)
        self.calls.step(work)
        self.digest.stepped(work, self.calls.clock_ms)
        self.step_clock.launched(work)
        result = super().run_batch(batch, pp_proxy_tensors)
        if self.step_clock.synchronous:
            self.step_clock.finished()
        if self.metrics is not None:
            self.metrics.stepped(self.calls, self.counters)
        return result

    def on_idle(self) -> None:
        super().on_idle()
        self.step_clock.idled()
        if self.trace is not None:
            self.trace.flush()
        if self.metrics is not None:
            self.metrics.publish(self.calls, self.counters)
        if self.calls.num_running and self.is_fully_idle():
            raise AssertionError(
                f"idle, but {self.calls.num_running} calls are still accounted as running"
            )

    # -- control --------------------------------------------------------------------------------

    def run_event_loop(self) -> None:
        """Run until shutdown. A replica that is watched from the main process fails alone.

        Upstream ends the whole server on an exception in one scheduler.
        """
        try:
            super().run_event_loop()
        except Exception:
            if self.program_args.placement is None:
                raise
            logger.exception("Replica %d has failed; its process ends.", self._replica)
            os._exit(1)

    def set_internal_state(self, recv_req: SetInternalStateReq) -> SetInternalStateReqOutput:
        fields = recv_req.server_args
        if not fields or not all(name.startswith(COST_KEY_PREFIX) for name in fields):
            return super().set_internal_state(recv_req)
        self.calls.use_cost_model(
            CostModel.from_dict(
                {name.removeprefix(COST_KEY_PREFIX): value for name, value in fields.items()}
            )
        )
        self.step_clock.forget()
        logger.info("Cost model: %s", self.calls.cost_model)
        return SetInternalStateReqOutput(updated=True)

    def get_internal_state(self, recv_req: GetInternalStateReq) -> GetInternalStateReqOutput:
        if isinstance(recv_req, ExplainCallsReq):
            return GetInternalStateReqOutput(internal_state={CALLS_KEY: self._explain(recv_req)})
        # A control request reaches every rank in the same turn of its loop.
        digests = self._gather(self.digest.value)
        output = super().get_internal_state(recv_req)
        output.internal_state["program"] = {**self.program_state(), "digests": digests}
        return output

    def _explain(self, request: ExplainCallsReq) -> dict[str, dict[str, Any]]:
        """How those of the calls that are here have fared until now."""
        found = {}
        for rid in request.calls:
            if rid in self.calls:
                wait_ms, waits = self.calls.waits_of(rid)
                call = self.calls.call(rid)
                found[rid] = {
                    "waiting": call.waiting,
                    "level": call.level,
                    "waited_ms": wait_ms,
                    "waits": list(waits),
                }
        return found

    def program_state(self) -> dict[str, Any]:
        """What doctor, metrics and calibration want to know; JSON-ready."""
        calls = self.calls
        return {
            "replica": self._replica,
            "address": self._address,
            "policy": calls.policy.name,
            "levels": list(calls.levels.describe()),
            "starvation_ratio": calls.starvation_ratio,
            "schedule_interval": calls.interval,
            "cost_model": calls.cost_model.as_dict(),
            "cost_error_now": self.step_clock.error(calls.cost_model),
            "clock_ms": calls.clock_ms,
            "waiting": calls.num_waiting,
            "running": calls.num_running,
            "calls_per_level": calls.calls_per_level(),
            "shares": self._standings(),
            "remembered": len(self._stamps) + len(self._computed) + len(self._recomputed),
            "locked_tokens": int(self.tree_cache.protected_size()),
            "counters": self.counters.as_dict(),
            "processes": [report.as_dict() for report in self.process_reports],
            "samples": self.step_clock.samples(),
        }

    def _standings(self) -> list[dict[str, Any]]:
        """The tenants with calls here, as far as they have shares; the most served first."""
        live = [account for account in self.calls.accounts() if account.calls]
        return [
            {
                "tenant": account.tenant,
                "weight": account.weight,
                "turn": account.turn,
                "service_ms": account.service_ms,
                "calls": account.calls,
                "waiting": len(account.queue),
            }
            for account in sorted(live, key=lambda a: -a.service_ms)[:STANDINGS_SHOWN]
        ]


def work_of(batch: ScheduleBatch) -> StepWork:
    """What a batch is about to compute, in the core's terms."""
    if batch.forward_mode.is_extend():
        decoding = batch.decoding_reqs or []
        is_decoding = {id(req) for req in decoding}
        prefills = tuple(
            (req.rid, req.extend_range.length) for req in batch.reqs if id(req) not in is_decoding
        )
    else:
        decoding = batch.reqs
        prefills = ()
    return StepWork(
        prefills=prefills,
        decodes=tuple(req.rid for req in decoding),
        context_tokens=sum(req.seqlen for req in decoding),
    )


def cost_update(model: CostModel) -> dict[str, float]:
    """The numeric fields of a SetInternalStateReq that make every rank charge by *model*."""
    fields = {COST_KEY_PREFIX + name: float(getattr(model, name)) for name in COEFFICIENTS}
    if model.error is not None:
        fields[COST_KEY_PREFIX + "error"] = model.error
    return fields
