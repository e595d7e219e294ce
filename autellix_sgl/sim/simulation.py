"""Programs, replicas and the process table in simulated time: the discrete-event loop.

Events are (time, rank, number): at one moment arrivals come first, then finished steps, then new
rounds, and equals in the order they were made, so a run is the same every time. Times are
milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from autellix_sgl.core import Forecast, Kinds, Placer, ProcessTable, policy_named
from autellix_sgl.core.calls.waits import NO_WAITS, add
from autellix_sgl.core.scheduling.decision_log import Recorder
from autellix_sgl.sim.batch import SimCall
from autellix_sgl.sim.eviction import eviction_order
from autellix_sgl.sim.hardware import ServerModel
from autellix_sgl.sim.prompts import Prompts
from autellix_sgl.sim.replica import Replica
from autellix_sgl.sim.systems import System, Tuning
from autellix_sgl.sim.work import batch_of, service_ms
from autellix_sgl.workloads import ProgramTrace, Workload

ARRIVAL, CALL, STEP_END, ROUND = 0, 1, 2, 3


@dataclass(slots=True)
class ProgramRun:
    """A program under way, and what became of it."""

    trace: ProgramTrace
    parents_left: list[int]
    children: list[list[int]]
    calls_left: int
    remaining_ms: float = 0.0
    arrival_ms: float = 0.0
    end_ms: float = math.nan
    wait_ms: float = 0.0
    longest_wait_ms: float = 0.0
    preemptions: int = 0
    promotions: int = 0
    waits: tuple[float, ...] = NO_WAITS

    @property
    def response_ms(self) -> float:
        """Last call's end minus the program's arrival."""
        return self.end_ms - self.arrival_ms


class Simulation:
    """One run of a workload on *replicas* copies of a server under one system."""

    def __init__(
        self,
        workload: Workload,
        server: ServerModel,
        system: System,
        *,
        tuning: Tuning | None = None,
        replicas: int = 1,
        placement: str = "program",
        weights: Mapping[str, float] | None = None,
        record: Recorder | None = None,
        judged: bool = False,
    ) -> None:
        self.workload = workload
        self.server = system.server(server)
        tuning = tuning or Tuning()
        self.now_ms = 0.0
        self._batch = batch_of(workload.programs, self.server)
        self.runs = self._prepare(workload.programs)
        policy = policy_named(system.table_policy)
        self.table = ProcessTable(
            policy,
            lease_s=math.inf,
            max_programs=workload.num_calls + 1,
            kinds=Kinds() if policy.learns or tuning.watches_memory else None,
            forecast=Forecast(tuning.levels) if policy.learns else None,
        )
        self._prompts = Prompts()
        self.replicas = [
            Replica(
                self.server,
                scheduler := system.scheduler(self.server, tuning, self._remaining_of, record),
                eviction_order(scheduler, tuning.program_eviction),
                judged=judged,
            )
            for _ in range(replicas)
        ]
        self.placer = Placer(placement, replicas, self.server.cost, batch=int(self._batch))
        self._due = [False] * replicas
        self._events: list[tuple[float, int, int, int, int]] = []
        self._number = 0
        self._where: dict[str, tuple[int, int]] = {}
        self._by_id = {run.trace.id: run for run in self.runs}
        self._scheduled = 0
        self._arrived = 0
        self._weights = weights or {}

    def run(self) -> Sequence[ProgramRun]:
        """Play the workload to its end; returns its programs in the order of the workload."""
        self._open()
        handlers = (self._arrive, self._call, self._step_end, self._round)
        while self._events:
            self.now_ms, kind, _, one, other = heappop(self._events)
            handlers[kind](one, other)
        unfinished = sum(run.calls_left for run in self.runs)
        assert not unfinished, f"the run is over, but {unfinished} calls are not"
        return self.runs

    @property
    def filling(self) -> bool:
        """Whether programs are still to come."""
        return self._arrived < len(self.runs)

    # -- programs ---------------------------------------------------------------------------------

    def _prepare(self, programs: Sequence[ProgramTrace]) -> list[ProgramRun]:
        runs = []
        for trace in programs:
            children: list[list[int]] = [[] for _ in trace.calls]
            for index, call in enumerate(trace.calls):
                for parent in call.parents:
                    children[parent].append(index)
            left = [len(call.parents) for call in trace.calls]
            work = sum(service_ms(call, self.server, self._batch) for call in trace.calls)
            runs.append(ProgramRun(trace, left, children, len(trace.calls), work))
        return runs

    def _open(self) -> None:
        """Schedule all arrivals; of a closed loop, those that make it full."""
        full = self.workload.concurrency
        for run in self.runs[:full]:
            self._schedule(run.trace.arrival_ms if full is None else 0.0)

    def _schedule(self, time_ms: float) -> None:
        self._at(time_ms, ARRIVAL, self._scheduled)
        self._scheduled += 1

    def _remaining_of(self, program_id: str) -> float:
        return self._by_id[program_id].remaining_ms

    def _arrive(self, program: int, _: int) -> None:
        run = self.runs[program]
        run.arrival_ms = self.now_ms
        self._arrived += 1
        for index, left in enumerate(run.parents_left):
            if not left:
                self._ready(program, index)

    def _ready(self, program: int, index: int) -> None:
        """All parents of the call are done; it arrives now, or after its interrupt."""
        interrupt = self.runs[program].trace.calls[index].interrupt
        if interrupt is None or not interrupt.duration_ms:
            self._call(program, index)
        else:
            self._at(self.now_ms + interrupt.duration_ms, CALL, program, index)

    def _call(self, program: int, index: int) -> None:
        trace = self.runs[program].trace
        call = trace.calls[index]
        call_id = f"{trace.id}.{index}"
        name = call_id if trace.fresh else trace.id
        opens = self.table.kinds is not None and name not in self.table
        stamp = self.table.arrive(
            call_id,
            name,
            now=self.now_ms / 1e3,
            thread=call.thread,
            transient=trace.fresh,
            prompt=self._prompts.tokens(trace, index) if opens else (),
        )
        weight = self._weights.get(trace.tenant, 1.0)
        stamp = replace(stamp, tenant=trace.tenant, weight=weight)
        footprint = self.table.program(name).footprint
        chosen = self.placer.place(call_id, footprint, prompt_tokens=call.prompt_tokens)
        self.replicas[chosen].submit(call_id, trace, index, stamp)
        self._where[call_id] = (program, index)
        self._wake(chosen)

    def _ended(self, replica: int, done: SimCall) -> None:
        """A call is done: tell the core, the placer and the table, then let its children go."""
        call_id = done.id
        program, index = self._where.pop(call_id)
        run = self.runs[program]
        statistics = self.replicas[replica].calls.remove(call_id, done.length)
        output_tokens = run.trace.calls[index].output_tokens
        self.placer.finish(call_id, cached_tokens=done.cached_tokens, output_tokens=output_tokens)
        self.table.complete(
            call_id,
            statistics,
            now=self.now_ms / 1e3,
            engine=replica,
            output_tokens=output_tokens,
        )
        run.wait_ms += statistics.wait_ms
        run.waits = add(run.waits, statistics.waits)
        run.longest_wait_ms = max(run.longest_wait_ms, statistics.wait_ms)
        run.preemptions += statistics.preemptions
        run.promotions += statistics.promotions
        run.remaining_ms -= service_ms(run.trace.calls[index], self.server, self._batch)
        run.calls_left -= 1
        if not run.calls_left:
            self._close(run)
            return
        for child in run.children[index]:
            run.parents_left[child] -= 1
            if not run.parents_left[child]:
                self._ready(program, child)

    def _close(self, run: ProgramRun) -> None:
        run.end_ms = self.now_ms
        if not run.trace.fresh:
            self.table.end(run.trace.id)
        for replica in self.replicas:
            replica.forget(run.trace)
        if self._scheduled < len(self.runs):
            self._schedule(self.now_ms)

    # -- replicas ---------------------------------------------------------------------------------

    def _wake(self, replica: int) -> None:
        if not self._due[replica]:
            self._due[replica] = True
            self._at(self.now_ms, ROUND, replica)

    def _round(self, replica: int, _: int) -> None:
        until_ms = self._events[0][0] - self.now_ms if self._events else math.inf
        took_ms = self.replicas[replica].round(until_ms)
        if took_ms:
            self._at(self.now_ms + took_ms, STEP_END, replica)
        else:
            self._due[replica] = False

    def _step_end(self, replica: int, _: int) -> None:
        for call in self.replicas[replica].take_finished():
            self._ended(replica, call)
        self._at(self.now_ms, ROUND, replica)

    def _at(self, time_ms: float, kind: int, one: int, other: int = 0) -> None:
        self._number += 1
        heappush(self._events, (time_ms, kind, self._number, one, other))
