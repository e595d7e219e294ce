"""SGLang's Scheduler with program scheduling: what it overrides, and why each override is enough.

    waiting_queue          a WaitingCalls: upstream's queue, ordered by the core
    get_new_batch_prefill  preempt if a pass is due, then let upstream admit from a short window
    update_running_batch   under memory pressure give up the worst calls, KV kept, before upstream
                           would retract by output length and drop it
    run_batch              charge the step
    process_batch_result   forget the calls that finished
    init_internal_state    the cost model comes in, samples and status go out

Upstream admits, allocates, prefills, decodes and streams as ever. Nothing here reads a clock to
decide: all tensor-parallel ranks see the same messages and batches, so they decide alike.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from sglang.srt.environ import envs
from sglang.srt.managers.io_struct import AbortReq, TokenizedGenerateReqInput
from sglang.srt.managers.schedule_batch import NextBatchPlan, Req, ScheduleBatch
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components.internal_state import SchedulerInternalStateController
from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer
from sglang.srt.runtime_context import get_parallel, get_serving
from sglang.srt.server_args import PortArgs, ServerArgs
from sglang.utils import TypeBasedDispatcher

from autellix_sgl.config import ProgramArgs
from autellix_sgl.core import (
    SHARE_TURN_MS,
    CallScheduler,
    Reason,
)
from autellix_sgl.decision_trace import TraceWriter
from autellix_sgl.runtime.metrics import SchedulerMetrics
from autellix_sgl.runtime.process_report import ProcessReport
from autellix_sgl.runtime.scheduler.batch_work import work_of
from autellix_sgl.runtime.scheduler.counters import SchedulerCounters
from autellix_sgl.runtime.scheduler.decision_digest import DecisionDigest
from autellix_sgl.runtime.scheduler.departures import Departures
from autellix_sgl.runtime.scheduler.ledger import CallLedger
from autellix_sgl.runtime.scheduler.output_streamer import ProgramOutputStreamer, call_report
from autellix_sgl.runtime.scheduler.preemption import keep_positions
from autellix_sgl.runtime.scheduler.preemption_pass import PreemptionPass
from autellix_sgl.runtime.scheduler.program_cache import ProgramRadixCache
from autellix_sgl.runtime.scheduler.recomputation import Recomputation
from autellix_sgl.runtime.scheduler.schedule_policy import LevelSchedulePolicy
from autellix_sgl.runtime.scheduler.state import ProgramStateController
from autellix_sgl.runtime.scheduler.step_clock import StepClock
from autellix_sgl.runtime.scheduler.waiting import AdmissionWindow, WaitingCalls
from autellix_sgl.runtime.wire import (
    CallReport,
    ProgramGenerateReqInput,
    ProgramsOver,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Candidates beyond the free slots that admission looks at together: a few for lpm to choose among.
SPARE_CANDIDATES = 1
SPARE_CANDIDATES_LPM = 16

# Between two looks whether all running calls are still in a batch.
STEPS_BETWEEN_AUDITS = 1024


class ProgramScheduler(Scheduler):  # type: ignore[misc]
    """One replica's scheduler; see the module docstring."""

    internal_state: SchedulerInternalStateController

    def __init__(
        self,
        server_args: ServerArgs,
        port_args: PortArgs,
        *,
        program_args: ProgramArgs,
        report: ProcessReport,
    ) -> None:
        self.program_args = program_args
        self._steps = 0
        self.address = port_args.scheduler_input_ipc_name
        self.counters = SchedulerCounters()
        self.recomputation = Recomputation(self.counters)
        self.preemption_pass = PreemptionPass(self)
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
            memory=args.core_memory(self.max_total_num_tokens),
        )
        # The tests' servers check themselves as strictly as SGLang can; others mend and go on.
        strict = bool(envs.SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY.get())
        self.ledger = CallLedger(self.calls, self.counters, self.recomputation, strict=strict)
        self.waiting = WaitingCalls(self.calls, self.ledger)
        self.waiting_queue: WaitingCalls | AdmissionWindow | list[Req] = self.waiting
        self.departures = Departures(self, self.waiting, self.ledger)
        if isinstance(self.tree_cache, ProgramRadixCache):
            self.tree_cache.attach(self.calls, self.ledger.stamp_of)
        self.step_clock = StepClock(synchronous=self.device == "cpu")

    def init_schedule_policy(self) -> None:
        super().init_schedule_policy()
        self.policy = LevelSchedulePolicy(
            self.schedule_policy,
            self.tree_cache,
            self.enable_hierarchical_cache,
            self.enable_priority_scheduling,
            self.schedule_low_priority_values_first,
            standing_of=lambda req: self.calls.call(req.rid).standing,
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
        return TraceWriter.open(Path(path if self.replica == 0 else f"{path}.{self.replica}"))

    @property
    def replica(self) -> int:
        """Which of the data-parallel replicas this is, 0 if there is one."""
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
            replica=self.replica,
            levels=self.calls.levels.count,
        )

    # -- arrival and departure ------------------------------------------------------------------

    def _create_generation_req(
        self, recv_req: TokenizedGenerateReqInput, *args: Any, **kwargs: Any
    ) -> Req:
        req = super()._create_generation_req(recv_req, *args, **kwargs)
        if isinstance(recv_req, ProgramGenerateReqInput):
            self.ledger.tag(req, recv_req.program.stamp())
        return req

    def _add_request_to_queue(self, req: Req, is_retracted: bool = False) -> None:
        known = req in self.ledger
        super()._add_request_to_queue(req, is_retracted)
        if req in self.ledger and not known:
            self.departures.refuse_one_above(self.max_queued_requests)

    def _abort_on_queued_limit(self, recv_req: Req) -> bool:
        # Who is refused is known when the request has its place in the queue.
        return False

    def abort_request(self, recv_req: AbortReq) -> None:
        if recv_req.abort_all:
            self.departures.abort_all_waiting()
            super().abort_request(recv_req)
        else:
            self.departures.abort(recv_req)

    def process_batch_result(self, batch: ScheduleBatch, result: Any) -> None:
        super().process_batch_result(batch, result)
        if not self.step_clock.synchronous:
            self.step_clock.finished()
        for req in batch.reqs:
            if req.finished():
                self.ledger.left(req)

    def process_pending_chunked_abort(self) -> None:
        req = self._pending_chunked_abort_req
        super().process_pending_chunked_abort()
        if req is not None and req.finished():
            self.ledger.left(req)

    @property
    def remembered(self) -> int:
        """How much is kept of calls; nothing once all have left."""
        return len(self.ledger) + len(self.recomputation)

    def _report_of(self, req: Req) -> CallReport | None:
        if req not in self.ledger:
            return None
        return call_report(
            self.calls,
            req.rid,
            replica=self.replica,
            recomputed_tokens=self.recomputation.of(req.rid),
        )

    # -- the scheduling pass --------------------------------------------------------------------

    def get_new_batch_prefill(self, running_batch: ScheduleBatch) -> NextBatchPlan:
        self.calls.admit_programs()
        victims = self.preemption_pass.consider(running_batch)
        plan = self._admit(running_batch)
        # Only now: a victim admitted again in the pass that took it out would have its skipped
        # result in flight counted after all.
        for req in victims:
            self._put_back(req)
        return plan

    def _admit(self, running_batch: ScheduleBatch) -> NextBatchPlan:
        """Upstream's admission, over the head of the queue instead of the whole of it."""
        free_slots = self.free_slots(running_batch)
        looks = not running_batch.batch_is_full
        candidates = max(free_slots, 0) + self._spare_candidates
        window = self.waiting.window(candidates, on_draw=keep_positions)
        self.waiting_queue = window
        try:
            plan = super().get_new_batch_prefill(running_batch)
        finally:
            left, self.waiting_queue = self.waiting_queue, self.waiting
        admitted: list[Req] = []
        if left is not window:  # upstream puts a list there once it has admitted somebody
            still_waiting = {id(req) for req in left}
            admitted = [req for req in window.drawn if id(req) not in still_waiting]
        for req in admitted:
            self.waiting.admit(req)
        self.preemption_pass.was_full = full = plan.running_batch.batch_is_full
        if looks or not len(left):
            # A slot that is free while the batch still counts as full waits for the next pass.
            memory_is_short = len(left) > 0 and free_slots > len(admitted) and full
            self.preemption_pass.memory_is_short = memory_is_short
            self.calls.short_of(Reason.MEMORY if memory_is_short else Reason.SLOTS)
        return plan

    @property
    def _spare_candidates(self) -> int:
        return SPARE_CANDIDATES_LPM if self.schedule_policy == "lpm" else SPARE_CANDIDATES

    def free_slots(self, running_batch: ScheduleBatch) -> int:
        """How many more calls the batch may take."""
        return int(
            self.get_num_allocatable_reqs(len(running_batch.reqs), running_batch=running_batch)
        )

    def _put_back(self, req: Req) -> None:
        self.waiting_queue.append(req)
        req.time_stats.set_wait_queue_entry_time()

    # -- memory pressure ------------------------------------------------------------------------

    def update_running_batch(self, batch: ScheduleBatch) -> ScheduleBatch | None:
        victims = self.preemption_pass.make_room(batch)
        before = list(batch.reqs)
        decoding: ScheduleBatch | None = super().update_running_batch(batch)
        for req in victims:
            self._put_back(req)
        staying = {id(req) for req in batch.reqs}
        for req in before:
            # Upstream aborts a request that cannot fit even alone, without a result for it. One
            # that leaves because the result in flight ends it still has its KV.
            if id(req) not in staying and req.to_finish is not None and not req.kv.holds_kv:
                self.ledger.left(req)
        return decoding

    # -- service --------------------------------------------------------------------------------

    def run_batch(self, batch: ScheduleBatch, pp_proxy_tensors: Any = None) -> Any:
        self._steps += 1
        if self._steps % STEPS_BETWEEN_AUDITS == 0:
            self._audit(batch)
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
        if self.is_fully_idle():
            self.ledger.expect_nothing()

    def _audit(self, batch: ScheduleBatch) -> None:
        present = {*self.collect_inflight_reqs(), *batch.reqs}
        if self.chunked_req is not None:
            present.add(self.chunked_req)
        self.ledger.audit(present)

    # -- control --------------------------------------------------------------------------------

    def init_request_dispatcher(self) -> None:
        super().init_request_dispatcher()
        self._request_dispatcher += TypeBasedDispatcher([(ProgramsOver, self._programs_over)])

    def _programs_over(self, message: ProgramsOver) -> None:
        for program in message.programs:
            self.calls.end_program(program)

    def run_event_loop(self) -> None:
        """Run until shutdown. A replica that is watched from the main process fails alone.

        Upstream ends the whole server on an exception in one scheduler.
        """
        try:
            super().run_event_loop()
        except Exception:
            if self.program_args.placement is None:
                raise
            logger.exception("Replica %d has failed; its process ends.", self.replica)
            os._exit(1)

    def init_internal_state(self) -> None:
        super().init_internal_state()
        self.internal_state = ProgramStateController(self, self.internal_state.record_step_time)

    def digests(self) -> list[str]:
        """Every rank's hash of its decisions; a control request reaches all in the same turn."""
        return self._gather(self.digest.value)
