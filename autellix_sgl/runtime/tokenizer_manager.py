"""SGLang's TokenizerManager with the process table: calls are stamped out and charged back in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX
from sglang.srt.managers.io_struct import (
    AbortReq,
    EmbeddingReqInput,
    GenerateReqInput,
    TokenizedEmbeddingReqInput,
    TokenizedGenerateReqInput,
)
from sglang.srt.managers.tokenizer_manager import ReqState, TokenizerManager
from sglang.srt.runtime_context import get_parallel
from sglang.srt.server_args import PortArgs, ServerArgs
from starlette.types import Scope

from autellix_sgl.config import ProgramArgs
from autellix_sgl.core import CallStatistics, ProcessTable
from autellix_sgl.runtime.identity import ANONYMOUS, Identity
from autellix_sgl.runtime.metrics import TABLE_PERIOD_S, TableMetrics
from autellix_sgl.runtime.replicas import Replicas
from autellix_sgl.runtime.wire import REPORT_KEY, CallReport, ProgramGenerateReqInput, ProgramTag

# Where an identity is kept on SGLang's request object, from the endpoint to the send.
IDENTITY_ATTRIBUTE = "autellix_identity"

LEASE_CHECKS_PER_LEASE = 10


class ProgramTokenizerManager(TokenizerManager):  # type: ignore[misc]
    """Holds the one process table of the server.

    A call is stamped just before it is sent to a scheduler and charged when its last output comes
    back, before the client sees it: the client's next call is stamped with this one's service.
    """

    def __init__(
        self,
        server_args: ServerArgs,
        port_args: PortArgs,
        *,
        program_args: ProgramArgs,
        **kwargs: Any,
    ) -> None:
        super().__init__(server_args, port_args, **kwargs)
        self.program_args = program_args
        self.table = ProcessTable(
            program_args.core_policy(),
            lease_s=program_args.lease_s,
            max_programs=program_args.max_programs,
        )
        self.program_metrics = (
            TableMetrics(model=self.served_model_name) if self.enable_metrics else None
        )
        self.replicas = self._make_replicas()

    def _make_replicas(self) -> Replicas | None:
        """The placement of calls on replicas, None if there is one replica or SGLang places."""
        count = get_parallel().dp_size
        policy = self.program_args.placement
        if policy is None or count == 1:
            return None
        return Replicas(self, policy, count, self.program_args.initial_cost_model())

    # -- in: from the endpoint to the scheduler -------------------------------------------------

    def generate_request(
        self, obj: GenerateReqInput | EmbeddingReqInput, request: Request | None = None
    ) -> AsyncIterator[Any]:
        # Not a generator itself: wrapping upstream's would delay its clean-up on a disconnect.
        if isinstance(obj, GenerateReqInput) and request is not None:
            setattr(obj, IDENTITY_ATTRIBUTE, request.scope.get(IDENTITY_ATTRIBUTE, ANONYMOUS))
        stream: AsyncIterator[Any] = super().generate_request(obj, request)
        return stream

    def _init_req_state(
        self, obj: GenerateReqInput | EmbeddingReqInput, request: Request | None = None
    ) -> None:
        super()._init_req_state(obj, request)
        # Upstream's copies for parallel sampling are single and have never been normalised.
        if isinstance(obj, GenerateReqInput) and not getattr(obj, "is_single", True):
            whole = identity_of(obj).or_own(obj.rid[0])
            for index in range(len(obj.rid)):
                setattr(obj[index], IDENTITY_ATTRIBUTE, whole.for_prompt(index))

    async def _send_one_request(
        self, tokenized_obj: TokenizedGenerateReqInput | TokenizedEmbeddingReqInput
    ) -> None:
        rid = tokenized_obj.rid
        if not isinstance(tokenized_obj, TokenizedGenerateReqInput) or rid.startswith(
            HEALTH_CHECK_RID_PREFIX
        ):
            await super()._send_one_request(tokenized_obj)
            return
        tag = self._arrive(rid, identity_of(self.rid_to_state[rid].obj).or_own(rid))
        try:
            if self.replicas is not None:
                self.replicas.place(tokenized_obj, self.table.program(tag.program).footprint)
            await super()._send_one_request(ProgramGenerateReqInput.of(tokenized_obj, tag))
        except BaseException:
            self.table.abort(rid, now=time.time())
            if self.replicas is not None:
                self.replicas.abort(rid)
            raise

    async def _send_batch_request(
        self, tokenized_objs: list[TokenizedGenerateReqInput | TokenizedEmbeddingReqInput]
    ) -> None:
        # Upstream's batch message has no room for tags.
        for tokenized_obj in tokenized_objs:
            await self._send_one_request(tokenized_obj)

    def _arrive(self, rid: str, identity: Identity) -> ProgramTag:
        return ProgramTag.of(
            self.table.arrive(
                rid,
                identity.program or rid,
                now=time.time(),
                thread=identity.thread,
                transient=identity.transient,
                ends_program=identity.end,
                attained_ms=identity.service_ms if self.program_args.carry_service else 0.0,
            )
        )

    def service_of(self, scope: Scope) -> float | None:
        """The service, ms, of the program that an HTTP request named, None if it is not live."""
        identity = scope.get(IDENTITY_ATTRIBUTE, ANONYMOUS)
        if identity.program is None or identity.program not in self.table:
            return None
        return self.table.program(identity.program).service_ms

    # -- out: from the scheduler to the endpoint ------------------------------------------------

    def update_request_meta_info(
        self,
        meta_info: dict[str, Any],
        state: ReqState,
        customized_info: dict[str, list[Any]],
        index: int,
        finish_reason: dict[str, Any] | None,
    ) -> None:
        others = {key: values for key, values in customized_info.items() if key != REPORT_KEY}
        super().update_request_meta_info(meta_info, state, others, index, finish_reason)
        reports = customized_info.get(REPORT_KEY)
        report = reports[index] if reports else None
        if report is not None and finish_reason is not None:
            self._leave(meta_info, report, aborted=finish_reason.get("type") == "abort")

    def _leave(self, meta_info: dict[str, Any], report: CallReport, *, aborted: bool) -> None:
        """Charge a call that left to its program, and say in its response how it fared."""
        rid = meta_info["id"]
        if not self.table.has_call(rid):
            return
        call = self.table.active_call(rid)
        statistics = CallStatistics(
            level=report.level,
            service_ms=report.service_ms,
            wait_ms=report.wait_ms,
            preemptions=report.preemptions,
            demotions=report.demotions,
            promotions=report.promotions,
        )
        settle = self.table.abort if aborted else self.table.complete
        settle(rid, statistics=statistics, now=time.time(), engine=report.replica)
        if self.replicas is not None:
            self.replicas.leave(meta_info, aborted=aborted)
        if self.program_metrics is not None:
            self.program_metrics.observe(report)
        meta_info["program"] = {
            "id": call.program,
            "thread": call.thread,
            "replica": report.replica,
            "level": report.level,
            "priority_ms": call.priority_ms,
            "service_ms": report.service_ms,
            "waited_ms": report.wait_ms,
            "preemptions": report.preemptions,
            "demotions": report.demotions,
            "promotions": report.promotions,
            "recomputed_tokens": report.recomputed_tokens,
            "cached_tokens": meta_info.get("cached_tokens"),
        }

    def _handle_abort_req(self, recv_obj: AbortReq) -> None:
        """A call was aborted while it waited: it leaves without outputs, so without a report."""
        super()._handle_abort_req(recv_obj)
        if recv_obj.rid is not None and self.table.has_call(recv_obj.rid):
            self.table.abort(recv_obj.rid, now=time.time())
            if self.replicas is not None:
                self.replicas.abort(recv_obj.rid)

    # -- leases ---------------------------------------------------------------------------------

    def auto_create_handle_loop(self) -> None:
        starting = self.event_loop is None
        super().auto_create_handle_loop()
        if starting:
            self.asyncio_tasks.add(self.event_loop.create_task(self._expire_leases()))
            if self.replicas is not None:
                self.asyncio_tasks.add(self.event_loop.create_task(self.replicas.watch()))
            if self.program_metrics is not None:
                publishing = self._publish_metrics(self.program_metrics)
                self.asyncio_tasks.add(self.event_loop.create_task(publishing))

    async def _expire_leases(self) -> None:
        while True:
            await asyncio.sleep(self.program_args.lease_s / LEASE_CHECKS_PER_LEASE)
            self.table.expire(now=time.time())

    async def _publish_metrics(self, metrics: TableMetrics) -> None:
        while True:
            metrics.publish(self.table.statistics())
            if self.replicas is not None:
                metrics.publish_replicas(self.replicas)
            await asyncio.sleep(TABLE_PERIOD_S)


def identity_of(obj: GenerateReqInput) -> Identity:
    """The identity the endpoint left on *obj*; offline calls may carry only a session id."""
    identity = getattr(obj, IDENTITY_ATTRIBUTE, None)
    if isinstance(identity, Identity):
        return identity
    return Identity(obj.session_id) if obj.session_id is not None else ANONYMOUS
