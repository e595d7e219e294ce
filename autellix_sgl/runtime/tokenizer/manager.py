"""SGLang's TokenizerManager with the process table: calls are stamped out and charged back in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import Request
from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX
from sglang.srt.managers.embed_types import PositionalEmbeds
from sglang.srt.managers.io_struct import (
    EmbeddingReqInput,
    GenerateReqInput,
    TokenizedEmbeddingReqInput,
    TokenizedGenerateReqInput,
)
from sglang.srt.managers.tokenizer_manager import ReqState, TokenizerManager
from sglang.srt.runtime_context import get_parallel, get_serving
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.server_args import PortArgs, ServerArgs

from autellix_sgl.config import ProgramArgs
from autellix_sgl.core import Forecast, Kinds, ProcessTable, Program
from autellix_sgl.runtime.asgi import path_of, scope_of
from autellix_sgl.runtime.identity import IdentityReader
from autellix_sgl.runtime.metrics import TABLE_PERIOD_S, TableMetrics
from autellix_sgl.runtime.tokenizer.call_ends import CallEnds, CallStates
from autellix_sgl.runtime.tokenizer.call_progress import (
    REQUEST_ATTRIBUTE,
    ProgramRequest,
    Progress,
    request_behind,
    request_of,
)
from autellix_sgl.runtime.tokenizer.opening import Opening
from autellix_sgl.runtime.tokenizer.replicas import Replicas
from autellix_sgl.runtime.tokenizer.request_fields import (
    check_overrides,
    check_rid,
    check_sampling,
    check_session,
    check_single,
    check_stop_ids,
    check_top_logprobs,
)
from autellix_sgl.runtime.tokenizer.responses import ResponsePrograms
from autellix_sgl.runtime.tokenizer.shares import SharesFile
from autellix_sgl.runtime.tokenizer.token_ids import check_token_ids
from autellix_sgl.runtime.wire import (
    CALLS_KEY,
    REPORT_KEY,
    ExplainCallsReq,
    ProgramGenerateReqInput,
    ProgramsOver,
    ProgramTag,
)

logger = logging.getLogger(__name__)

HEALTH_CHECK_PATHS = ("/health", "/health_generate")

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
        self.ends = CallEnds(self.table, self.replicas, self.program_metrics)
        # Empty so far, like SGLang's own that it takes the place of.
        self.rid_to_state = CallStates(self.ends.gone)
        self.opening = Opening()

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
            if request is not None and path_of(scope_of(request)) not in HEALTH_CHECK_PATHS:
                check_rid(obj.rid, HEALTH_CHECK_RID_PREFIX)
            check_sampling(obj.sampling_params, SamplingParams.__struct_fields__)
            check_session(obj.session_params)
            check_overrides(obj.positional_embed_overrides, PositionalEmbeds)
            setattr(obj, REQUEST_ATTRIBUTE, request_behind(obj, request))
        stream: AsyncGenerator[Any, None] = super().generate_request(obj, request)
        if request is not None and _is_charged(obj) and self.opening.holds(request):
            return self.opening.outputs(stream, obj, request)
        return stream

    def _init_req_state(
        self, obj: GenerateReqInput | EmbeddingReqInput, request: Request | None = None
    ) -> None:
        # Upstream's copies for parallel sampling are single and have never been normalised.
        single = getattr(obj, "is_single", True)
        if isinstance(obj, GenerateReqInput) and single:
            check_single(obj)
        super()._init_req_state(obj, request)
        if isinstance(obj, GenerateReqInput) and not single:
            whole = request_of(obj).named(obj.rid[0])
            for index in range(len(obj.rid)):
                setattr(obj[index], REQUEST_ATTRIBUTE, whole.for_prompt(index))

    def _validate_one_request(
        self, obj: GenerateReqInput | EmbeddingReqInput, input_ids: list[int] | None
    ) -> None:
        size = self.model_config.vocab_size
        if isinstance(obj, GenerateReqInput):
            check_stop_ids(obj.sampling_params, size)
            check_top_logprobs(obj.top_logprobs_num, size)
        # A multimodal prompt has placeholders of its model's own, outside of the vocabulary too.
        if input_ids is not None and not obj.contains_mm_input():
            # An adapter may add tokens behind the model's.
            adapted = self.enable_lora and obj.lora_path
            continues = bool(getattr(obj, "session_params", None))
            check_token_ids(input_ids, None if adapted else size, continues=continues)
        super()._validate_one_request(obj, input_ids)

    async def _send_one_request(
        self, tokenized_obj: TokenizedGenerateReqInput | TokenizedEmbeddingReqInput
    ) -> None:
        rid = tokenized_obj.rid
        if not _is_charged(tokenized_obj):
            if self.replicas is not None and rid.startswith(HEALTH_CHECK_RID_PREFIX):
                self.replicas.place_health_check(tokenized_obj)
            await super()._send_one_request(tokenized_obj)
            return
        request = request_of(self.rid_to_state[rid].obj).named(rid)
        tag = self._arrive(rid, request, tokenized_obj.input_ids or ())
        # Should any of this fail, SGLang forgets the state, and the call leaves the table with it.
        if self.replicas is not None:
            self.replicas.place(tokenized_obj, self.table.program_of(rid).footprint)
        await super()._send_one_request(ProgramGenerateReqInput.of(tokenized_obj, tag))

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
            program = self.ends.charge(meta_info, report, aborted=aborted)
            progress.service_ms = program.service_ms

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
                self.asyncio_tasks.add(self.event_loop.create_task(self.shares.follow()))
            if self.program_metrics is not None:
                publishing = self._publish_metrics(self.program_metrics)
                self.asyncio_tasks.add(self.event_loop.create_task(publishing))

    async def _expire_leases(self) -> None:
        while True:
            await asyncio.sleep(self.program_args.lease_s / LEASE_CHECKS_PER_LEASE)
            self.ends.check(self.rid_to_state)
            self.table.expire(now=time.time())

    async def _publish_metrics(self, metrics: TableMetrics) -> None:
        while True:
            metrics.publish(self.table.statistics())
            metrics.publish_identities(self.identities.recognised, self.identities.ignored)
            if self.replicas is not None:
                metrics.publish_replicas(self.replicas.live)
            if self.shares is not None:
                metrics.publish_shares(self.shares)
            await asyncio.sleep(TABLE_PERIOD_S)


def _is_charged(obj: object) -> bool:
    """Whether it is somebody's call: embeddings and health checks are nobody's."""
    if not isinstance(obj, GenerateReqInput | TokenizedGenerateReqInput):
        return False
    return not (isinstance(obj.rid, str) and obj.rid.startswith(HEALTH_CHECK_RID_PREFIX))
