"""SGLang's TokenizerManager with the process table: calls are stamped out and charged back in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
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
from sglang.srt.runtime_context import get_parallel, get_serving
from sglang.srt.server_args import PortArgs, ServerArgs

from autellix_sgl.config import ProgramArgs
from autellix_sgl.core import (
    CallStatistics,
    Forecast,
    Kinds,
    ProcessTable,
    Program,
    by_reason,
)
from autellix_sgl.runtime.call_progress import (
    REQUEST_ATTRIBUTE,
    ProgramRequest,
    Progress,
)
from autellix_sgl.runtime.identity import ANONYMOUS, Identity, IdentityReader
from autellix_sgl.runtime.metrics import TABLE_PERIOD_S, TableMetrics
from autellix_sgl.runtime.replicas import Replicas
from autellix_sgl.runtime.responses import ResponsePrograms
from autellix_sgl.runtime.shares import PERIOD_S as SHARES_PERIOD_S
from autellix_sgl.runtime.shares import SharesFile
from autellix_sgl.runtime.wire import (
    CALLS_KEY,
    REPORT_KEY,
    CallReport,
    ExplainCallsReq,
    ProgramGenerateReqInput,
    ProgramsOver,
    ProgramTag,
)

logger = logging.getLogger(__name__)

# Whose the calls are that are made in this process, without HTTP.
LOCAL_IDENTITY: ContextVar[Identity] = ContextVar("autellix_local_identity", default=ANONYMOUS)

# On SGLang's request object: whether the client chose the call's id itself.
CHOSEN_ATTRIBUTE = "autellix_chosen_id"

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
        policy = program_args.core_policy()
        self.table = ProcessTable(
            policy,
            lease_s=program_args.lease_s,
            max_programs=program_args.max_programs,
            kinds=Kinds() if policy.learns or program_args.watches_memory else None,
            forecast=Forecast(program_args.core_levels()) if policy.learns else None,
            dropped=self._tell_schedulers if program_args.watches_memory else None,
        )
        shares = program_args.shares
        self.shares = None if shares is None else SharesFile(Path(shares))
        self.responses = ResponsePrograms(program_args.max_programs)
        self.identities = IdentityReader(self.responses.program_of)
        self.program_metrics = (
            TableMetrics(model=self.served_model_name) if self.enable_metrics else None
        )
        self.replicas = self._make_replicas()

    def _make_replicas(self) -> Replicas | None:
        """The placement of calls on replicas, None if there is one replica or SGLang places."""
        count = get_parallel().num_dp_ranks
        policy = self.program_args.placement
        if policy is None or count == 1:
            return None
        return Replicas(self, policy, count, self.program_args.initial_cost_model())

    # -- in: from the endpoint to the scheduler -------------------------------------------------

    def identify(
        self, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, tenant: str, stores: bool
    ) -> ProgramRequest:
        """What goes with an HTTP request from here on; raises InvalidProgram.

        *stores*: the endpoint keeps its responses, if the server was told to.
        """
        reading = self.identities.read(headers, body, tenant=tenant)
        named = reading.identity
        program = named.program
        if program is not None:
            program = self.table.root_of(program, parent=named.parent, tenant=tenant)
        kept = stores and reading.continuable and bool(get_serving().enable_response_store)
        return ProgramRequest(named, Progress(program), continuable=kept)

    def generate_request(
        self, obj: GenerateReqInput | EmbeddingReqInput, request: Request | None = None
    ) -> AsyncIterator[Any]:
        # Not a generator itself: wrapping upstream's would delay its clean-up on a disconnect.
        if isinstance(obj, GenerateReqInput):
            setattr(obj, CHOSEN_ATTRIBUTE, obj.rid is not None)
            setattr(obj, REQUEST_ATTRIBUTE, _request_behind(obj, request))
        stream: AsyncIterator[Any] = super().generate_request(obj, request)
        return stream

    def _init_req_state(
        self, obj: GenerateReqInput | EmbeddingReqInput, request: Request | None = None
    ) -> None:
        super()._init_req_state(obj, request)
        # Upstream's copies for parallel sampling are single and have never been normalised.
        if isinstance(obj, GenerateReqInput) and not getattr(obj, "is_single", True):
            whole = request_of(obj).named(obj.rid[0])
            for index in range(len(obj.rid)):
                setattr(obj[index], REQUEST_ATTRIBUTE, whole.for_prompt(index))
                setattr(obj[index], CHOSEN_ATTRIBUTE, getattr(obj, CHOSEN_ATTRIBUTE))

    async def _send_one_request(
        self, tokenized_obj: TokenizedGenerateReqInput | TokenizedEmbeddingReqInput
    ) -> None:
        rid = tokenized_obj.rid
        if not isinstance(tokenized_obj, TokenizedGenerateReqInput) or rid.startswith(
            HEALTH_CHECK_RID_PREFIX
        ):
            if self.replicas is not None and rid.startswith(HEALTH_CHECK_RID_PREFIX):
                self.replicas.place_health_check(tokenized_obj)
            await super()._send_one_request(tokenized_obj)
            return
        request = request_of(self.rid_to_state[rid].obj).named(rid)
        tag = self._arrive(rid, request, tokenized_obj.input_ids or ())
        try:
            if self.replicas is not None:
                self.replicas.place(tokenized_obj, self.table.program_of(rid).footprint)
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

    def _arrive(self, rid: str, request: ProgramRequest, prompt: Sequence[int]) -> ProgramTag:
        """Enter a call in the table; its response's headers know its program from here on."""
        identity = request.identity
        stamp = self.table.arrive(
            rid,
            identity.program or rid,
            now=time.time(),
            tenant=identity.tenant,
            thread=identity.thread,
            parent=identity.parent,
            user=identity.user,
            source=identity.source,
            transient=identity.transient,
            ends_program=identity.end,
            attained_ms=identity.service_ms,
            prompt=prompt,
            hints=identity.hints,
        )
        request.progress.program = self.table.active_call(rid).program
        request.progress.service_ms = stamp.priority_ms
        if request.continuable:
            self.responses.remember(identity.tenant, rid, request.progress.program)
        if self.shares is not None:
            holder, weight = self.shares.shares.of_call(identity.tenant, identity.user)
            stamp = replace(stamp, tenant=holder, weight=weight)
        return ProgramTag.of(stamp)

    # -- aborting -------------------------------------------------------------------------------

    def abort_program(self, program: Program) -> list[str]:
        """Abort all calls that *program* has in the system; returns their ids.

        They leave the table when the scheduler has let go of them, a step later.
        """
        calls = list(program.active)
        for rid in calls:
            self.abort_request(rid)
        return calls

    def abort_request(self, rid: str = "", abort_all: bool = False) -> None:
        if not abort_all and self._begins_another_tenants(rid):
            # Upstream's scheduler aborts whatever begins with the id, and this one was chosen.
            logger.warning("call %r is not aborted: another tenant's id begins with it", rid)
            return
        super().abort_request(rid, abort_all)

    def _begins_another_tenants(self, rid: str) -> bool:
        state = self.rid_to_state.get(rid)
        if self.program_args.tenants is None or state is None:
            return False
        if not getattr(state.obj, CHOSEN_ATTRIBUTE):
            return False
        tenant = request_of(state.obj).identity.tenant
        return any(
            call.tenant != tenant and call.id.startswith(rid) for call in self.table.active_calls()
        )

    # -- out: from the scheduler to the endpoint ------------------------------------------------

    async def _handle_batch_output(self, recv_obj: Any) -> None:
        await super()._handle_batch_output(recv_obj)
        # A receive from a socket that has more does not give way, so a stream of outputs, faster
        # than they are handled, would keep new calls out for seconds (sgl-project/sglang#40635).
        await asyncio.sleep(0)

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
        if report is None:
            return
        progress = request_of(state.obj).progress
        progress.note(report)
        if finish_reason is not None and self.table.has_call(meta_info["id"]):
            aborted = finish_reason.get("type") == "abort"
            progress.service_ms = self._leave(meta_info, report, aborted=aborted).service_ms

    def _leave(self, meta_info: dict[str, Any], report: CallReport, *, aborted: bool) -> Program:
        """Charge a call that left to its program, and say in its response how it fared."""
        rid = meta_info["id"]
        call = self.table.active_call(rid)
        statistics = CallStatistics(
            level=report.level,
            service_ms=report.service_ms,
            wait_ms=report.wait_ms,
            preemptions=report.preemptions,
            demotions=report.demotions,
            promotions=report.promotions,
            waits=tuple(report.waits),
        )
        now, replica = time.time(), report.replica
        if aborted:
            program = self.table.abort(rid, statistics=statistics, now=now, engine=replica)
        else:
            program = self.table.complete(
                rid,
                statistics,
                now=now,
                engine=replica,
                output_tokens=meta_info["completion_tokens"],
            )
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
            "wait_reasons": {reason.value: ms for reason, ms in by_reason(report.waits)},
            "preemptions": report.preemptions,
            "demotions": report.demotions,
            "promotions": report.promotions,
            "recomputed_tokens": report.recomputed_tokens,
            "cached_tokens": meta_info.get("cached_tokens"),
        }
        return program

    def _handle_abort_req(self, recv_obj: AbortReq) -> None:
        """A call was aborted while it waited: it leaves without outputs, so without a report."""
        super()._handle_abort_req(recv_obj)
        if recv_obj.rid is not None and self.table.has_call(recv_obj.rid):
            self.table.abort(recv_obj.rid, now=time.time())
            if self.replicas is not None:
                self.replicas.abort(recv_obj.rid)

    # -- explaining -----------------------------------------------------------------------------

    async def explain_calls(self, calls: Iterable[str]) -> dict[str, dict[str, Any]]:
        """By id, how those of *calls* fare that a scheduler has: ``waiting`` (else it runs),
        ``level``, ``waited_ms`` until now and ``waits``, that by reason."""
        asked = list(calls)
        if not asked:
            return {}
        self.auto_create_handle_loop()
        answers = await self.get_internal_state_communicator(ExplainCallsReq(calls=asked))
        found: dict[str, dict[str, Any]] = {}
        for answer in answers:
            found |= answer.internal_state[CALLS_KEY]
        return found

    def _tell_schedulers(self, program: Program) -> None:
        """A program is over, as far as anybody knows: its KV is of no use any more.

        Not said of a request that named no program: its successor names none either, and is best
        served by what is left of it.
        """
        if not program.transient:
            self._dispatch_to_scheduler(ProgramsOver(programs=[program.label]))

    # -- leases ---------------------------------------------------------------------------------

    def auto_create_handle_loop(self) -> None:
        starting = self.event_loop is None
        super().auto_create_handle_loop()
        if starting:
            self.asyncio_tasks.add(self.event_loop.create_task(self._expire_leases()))
            if self.replicas is not None:
                self.asyncio_tasks.add(self.event_loop.create_task(self.replicas.watch()))
            if self.shares is not None:
                self.asyncio_tasks.add(self.event_loop.create_task(_follow(self.shares)))
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
            metrics.publish_identities(self.identities.recognised, self.identities.ignored)
            if self.replicas is not None:
                metrics.publish_replicas(self.replicas)
            if self.shares is not None:
                metrics.publish_shares(self.shares)
            await asyncio.sleep(TABLE_PERIOD_S)


async def _follow(file: SharesFile) -> None:
    """Take up every new version of the shares' file."""
    while True:
        await asyncio.sleep(SHARES_PERIOD_S)
        file.look()


def request_of(obj: GenerateReqInput) -> ProgramRequest:
    """What goes with *obj* since it entered the tokenizer manager."""
    request: ProgramRequest = getattr(obj, REQUEST_ATTRIBUTE)
    return request


def _request_behind(obj: GenerateReqInput, request: Request | None) -> ProgramRequest:
    """What the middleware left in the HTTP request, or what a call in this process says."""
    if request is not None:
        ours = request.scope.get(REQUEST_ATTRIBUTE)
        return ours if isinstance(ours, ProgramRequest) else ProgramRequest.of(ANONYMOUS)
    identity = LOCAL_IDENTITY.get()
    if identity.program is None and obj.session_id is not None:
        identity = Identity(obj.session_id, source="session_id")
    return ProgramRequest.of(identity)
