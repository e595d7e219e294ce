"""The replicas of a data-parallel server: where calls go, and what happens when one dies.

SGLang's controller sends a request where its ``routed_dp_rank`` says, so placing needs no change
to it. A scheduler that dies is another matter. Killed, it is noticed by nobody, its calls never
end, and the next control message blocks the controller for good, since nobody reads the socket any
more. So the main process, which holds the table, watches the processes itself. When one ends it

    kills     the other ranks of that replica, which would wait for it in a collective
    reads     the replica's socket in its place, so that the controller goes on
    forgets   the replica in placement, in the controller's round robin and in control requests
    fails     the replica's calls with HTTP 503

and goes on with the replicas that are left. They are not started again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Protocol

from sglang.srt.managers.communicator import FanOutCommunicator
from sglang.srt.managers.io_struct import (
    AbortReq,
    ActiveRanksOutput,
    TokenizedGenerateReqInput,
)
from sglang.srt.utils.network import get_zmq_socket
from zmq.asyncio import Context
from zmq.constants import SocketType

from autellix_sgl.core import CostModel, Footprint, Placer

logger = logging.getLogger(__name__)


class ControlPlane(Protocol):
    """What is asked and told of the tokenizer manager. All of it is SGLang's."""

    elastic_worker_count: int

    @property
    def gracefully_exit(self) -> bool: ...

    async def get_internal_state(self) -> list[dict[str, Any]]: ...

    def update_active_ranks(self, ranks: ActiveRanksOutput) -> None: ...

    def update_control_communicator_fan_out(self, fan_out: int) -> None: ...

    def _handle_abort_req(self, recv_obj: AbortReq) -> None: ...


class Replicas:
    """Places the calls of *manager* on *count* replicas by the placement *policy*."""

    def __init__(
        self, manager: ControlPlane, policy: str, count: int, cost_model: CostModel
    ) -> None:
        self._manager = manager
        self._cost_model = cost_model
        self._batch = 1
        self.placer = Placer(policy, count, cost_model, batch=self._batch)
        self._processes: dict[int, list[int]] = {}
        self._addresses: dict[int, str] = {}
        self._readers: list[asyncio.Task[None]] = []
        self._health_checks = 0

    # -- calls ------------------------------------------------------------------------------------

    def place(self, request: TokenizedGenerateReqInput, footprint: Footprint) -> None:
        """Say in *request* where it goes, unless the client did; raises NoReplica."""
        request.routed_dp_rank = self.placer.place(
            request.rid,
            footprint,
            prompt_tokens=len(request.input_ids or ()),
            max_output_tokens=request.sampling_params.max_new_tokens,
            replica=request.routed_dp_rank,
        )

    def place_health_check(self, request: Any) -> None:
        """To each of the replicas in turn; SGLang's controller would not pass over the dead."""
        live = self.placer.loads.live
        self._health_checks += 1
        request.routed_dp_rank = live[self._health_checks % len(live)]

    def leave(self, meta_info: dict[str, Any], *, aborted: bool) -> None:
        """A call has left its scheduler, with the last *meta_info* of its response."""
        rid = meta_info["id"]
        if aborted:
            self.abort(rid)
        elif rid in self.placer:
            self.placer.finish(
                rid,
                cached_tokens=meta_info["cached_tokens"],
                output_tokens=meta_info["completion_tokens"],
            )

    def abort(self, rid: str) -> None:
        """A call has left without an answer, if it had not left with its replica."""
        if rid in self.placer:
            self.placer.abort(rid)

    def use_cost_model(self, cost_model: CostModel) -> None:
        """Weigh new calls by *cost_model*."""
        self._cost_model = cost_model
        self.placer.use_cost_model(cost_model, batch=self._batch)

    @property
    def live(self) -> int:
        """How many are left."""
        return len(self.placer.loads.live)

    # -- processes --------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Learn which processes the replicas are, and be told from now on when one ends."""
        for state in await self._manager.get_internal_state():
            program = state["program"]
            replica = program["replica"]
            self._batch = int(state["effective_max_running_requests_per_dp"])
            self._addresses[replica] = program["address"]
            self._processes[replica] = [
                self._watch(replica, process["pid"]) for process in program["processes"]
            ]
        self.use_cost_model(self._cost_model)

    def _watch(self, replica: int, pid: int) -> int:
        """A descriptor of the process; it becomes readable when the process ends."""
        process = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(process, self._lost, replica)
        return process

    def _lost(self, replica: int) -> None:
        """A process of *replica* has ended."""
        self._end_processes(replica)
        if self._manager.gracefully_exit:
            return
        calls = self.placer.remove(replica)
        logger.error(
            "Replica %d has died with %d calls in flight; %d replicas are left.",
            replica,
            len(calls),
            self.live,
        )
        if not self.live:
            # What SGLang's own watchdog does when a process is gone that cannot be spared.
            os.kill(os.getpid(), signal.SIGQUIT)
            return
        self._readers.append(asyncio.get_running_loop().create_task(self._read_for(replica)))
        self._expect_fewer_answers()
        for rid in calls:
            self._manager._handle_abort_req(AbortReq(rid=rid, finished_reason=_died(replica)))

    def _end_processes(self, replica: int) -> None:
        loop = asyncio.get_running_loop()
        for process in self._processes.pop(replica):
            loop.remove_reader(process)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)

    async def _read_for(self, replica: int) -> None:
        """Take what is still sent to the replica off the controller's hands.

        Its calls are failed by their ids and control requests do not wait for it, so nothing that
        comes here is needed.
        """
        context = Context.instance()
        socket = get_zmq_socket(context, SocketType.PULL, self._addresses[replica], bind=False)
        while True:
            await socket.recv()

    def _expect_fewer_answers(self) -> None:
        """Control requests, those that wait too, are complete with an answer of each that is left.

        And SGLang's own round robin, which has what is not placed, passes over the dead.
        """
        manager = self._manager
        manager.update_active_ranks(ActiveRanksOutput(status=list(self.placer.loads.alive)))
        manager.elastic_worker_count = self.live
        manager.update_control_communicator_fan_out(self.live)
        for communicator in vars(manager).values():
            if isinstance(communicator, FanOutCommunicator):
                _settle_for(communicator, self.live)


def _settle_for(communicator: FanOutCommunicator, answers: int) -> None:
    """End a control request that has *answers* already and would wait for the dead."""
    if communicator._result_event is None or communicator._result_fan_out is None:
        return
    communicator._result_fan_out = min(answers, communicator._result_fan_out)
    if len(communicator._result_values or ()) >= communicator._result_fan_out:
        communicator._result_event.set()


def _died(replica: int) -> dict[str, Any]:
    """The finish reason of the calls that a replica took with it, which SGLang answers with 503."""
    return {
        "type": "abort",
        "message": f"replica {replica} died while it ran this call; send the call again",
        "status_code": HTTPStatus.SERVICE_UNAVAILABLE,
        "err_type": "ServiceUnavailableError",
    }
