"""How long one scheduling pass takes, by how many calls wait.

A real scheduler is built in this process (real model, KV pool and radix cache; no server) and its
queue filled through its own request handler. Timed, as medians of many passes:

    idle pass     slots full, nothing better waits: the check every step pays
    preempting    slots full, a better call has arrived: choose a victim, KV into the tree, admit
    admission     a slot is free: upstream's admission from the window
    arrival       one call into the queue
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

import autellix_sgl.runtime  # noqa: F401 (prepares the process for sglang)
from bench.report_file import add_output_argument, write_result

SIZES = (100, 1_000, 10_000)
SLOTS = 16
LIMIT_MS = 1.0
LIMIT_GROWTH = 3.0


class NoPipe:
    """Stands for the pipe on which a scheduler process reports that it is ready."""

    def send(self, _info: object) -> None:
        pass


def request(rid: str, *, priority_ms: float, salt: int, tenant: str = "") -> Any:
    """A tokenised call of a program that has attained *priority_ms*."""
    from sglang.srt.managers.io_struct import TokenizedGenerateReqInput
    from sglang.srt.sampling.sampling_params import SamplingParams

    from autellix_sgl.core import CallStamp
    from autellix_sgl.runtime.wire import ProgramGenerateReqInput, ProgramTag

    parameters = SamplingParams(max_new_tokens=512, ignore_eos=True, temperature=0.0)
    parameters.normalize(None)
    tokenized = TokenizedGenerateReqInput(
        rid=rid,
        input_text=None,
        input_ids=array("q", [(salt * 7919 + i * 31) % 40_000 + 10 for i in range(64)]),
        input_embeds=None,
        mm_inputs=None,
        token_type_ids=None,
        sampling_params=parameters,
        return_logprob=False,
        logprob_start_len=-1,
        top_logprobs_num=0,
        token_ids_logprob=None,
        stream=False,
    )
    stamp = CallStamp(
        program=f"p-{rid}",
        priority_ms=priority_ms,
        program_service_ms=priority_ms,
        tenant=tenant,
    )
    return ProgramGenerateReqInput.of(tokenized, ProgramTag.of(stamp))


def one_step(scheduler: Any) -> None:
    """One iteration of upstream's event loop without overlap."""
    plan = scheduler.get_next_batch_to_run(
        running_batch=scheduler.running_batch, last_batch=scheduler.last_batch
    )
    scheduler.running_batch = plan.running_batch
    batch = plan.batch_to_run
    if batch is not None:
        scheduler.process_batch_result(batch, scheduler.run_batch(batch))
    scheduler.last_batch = batch


def median_ms(timed: Callable[[], None], before: Callable[[], None], repeats: int) -> float:
    """Median wall time of *timed*, each time after an untimed *before*."""
    times = []
    for _ in range(repeats):
        before()
        started = time.perf_counter()
        timed()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


class Measurement:
    """One scheduler, its slots full of old programs' calls and its queue filled step by step.

    The calls are dealt to so many *tenants*; with 0 there are no shares.
    """

    def __init__(self, scheduler: Any, repeats: int, tenants: int) -> None:
        self.scheduler = scheduler
        self.repeats = repeats
        self.tenants = tenants
        self._number = 0

    def add(self, priority_ms: float) -> None:
        self._number += 1
        tenant = f"t{self._number % self.tenants}" if self.tenants else ""
        self.scheduler.handle_generate_request(
            request(
                f"c{self._number:08d}", priority_ms=priority_ms, salt=self._number, tenant=tenant
            )
        )

    def run(self) -> list[dict[str, float]]:
        scheduler = self.scheduler
        for _ in range(SLOTS):
            self.add(500.0)
        for _ in range(3):
            one_step(scheduler)
        rows = []
        for size in SIZES:
            while len(scheduler.waiting_queue) < size:
                # Mixed levels, none better than what runs.
                self.add(1_000.0 * (1 + self._number % 40))
            rows.append({"waiting": float(size), **self.measure()})
            print({k: round(v, 4) for k, v in rows[-1].items()}, file=sys.stderr)
        return rows

    def measure(self) -> dict[str, float]:
        scheduler, calls = self.scheduler, self.scheduler.calls

        def make_due() -> None:
            calls._steps_since_pass = calls.interval
            scheduler.running_batch.batch_is_full = False

        def plan() -> None:
            scheduler.get_new_batch_prefill(scheduler.running_batch)

        idle = median_ms(plan, make_due, self.repeats)
        arrival = median_ms(lambda: self.add(1e6), lambda: None, self.repeats)
        preempting = []
        admission = []
        for _ in range(max(self.repeats // 10, 5)):
            before = dict(scheduler.counters.as_dict())
            self.add(0.0)
            preempting.append(self.time_one_pass())
            assert scheduler.counters.preemptions == before["preemptions"] + 1
            self.drop_running(1)
            admission.append(self.time_one_pass())
        return {
            "idle_pass_ms": idle,
            "arrival_ms": arrival,
            "preempting_pass_ms": statistics.median(preempting),
            "admission_ms": statistics.median(admission),
        }

    def time_one_pass(self) -> float:
        """Time the planning of one step, then run the step it planned."""
        scheduler = self.scheduler
        scheduler.calls._steps_since_pass = scheduler.calls.interval
        started = time.perf_counter()
        plan = scheduler.get_next_batch_to_run(
            running_batch=scheduler.running_batch, last_batch=scheduler.last_batch
        )
        took = (time.perf_counter() - started) * 1e3
        scheduler.running_batch = plan.running_batch
        batch = plan.batch_to_run
        scheduler.process_batch_result(batch, scheduler.run_batch(batch))
        scheduler.last_batch = batch
        return took

    def drop_running(self, count: int) -> None:
        """Abort *count* running calls and let the step that ends them pass."""
        from sglang.srt.managers.io_struct import AbortReq

        one_step(self.scheduler)
        for req in list(self.scheduler.running_batch.reqs)[:count]:
            self.scheduler.abort_request(AbortReq(rid=req.rid))
        one_step(self.scheduler)


def build_and_run(flags: list[str], repeats: int, tenants: int) -> list[dict[str, float]]:
    """Construct a scheduler as its process would, and measure where it would serve."""
    from sglang.srt.managers import scheduler as upstream
    from sglang.srt.server_args import PortArgs, prepare_server_args

    from autellix_sgl.config import ProgramArgs
    from autellix_sgl.runtime.launch.processes import activate_scheduler
    from autellix_sgl.runtime.scheduler.scheduler import ProgramScheduler

    rows: list[dict[str, float]] = []

    class Measured(ProgramScheduler):
        def run_event_loop(self) -> None:
            self.schedule_stream.synchronize = lambda: None
            rows.extend(Measurement(self, repeats, tenants).run())

    server_args = prepare_server_args(flags)
    server_args.resolve_once()
    # The scheduler only asks whether there is a file of shares; it does not read it.
    shares = "shares.json" if tenants else None
    program_args = ProgramArgs(policy="plas", cost_model=unit_cost_file(), shares=shares)
    activate_scheduler(program_args, Measured)
    upstream.run_scheduler_process(
        server_args, PortArgs.init_new(server_args), 0, 0, 0, None, NoPipe()
    )
    return rows


def unit_cost_file() -> str:
    import json
    import tempfile
    from pathlib import Path

    path = Path(tempfile.mkdtemp()) / "cost.json"
    path.write_text(json.dumps({"base_ms": 1.0}), encoding="utf-8")
    return str(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200, help="Passes a median is taken over.")
    parser.add_argument(
        "--tenants", type=int, default=0, help="With shares, the calls dealt to so many tenants."
    )
    add_output_argument(parser)
    args = parser.parse_args()
    from autellix_sgl.runtime import cpu
    from autellix_sgl.runtime.launch.platform import uses_cpu_engine
    from autellix_sgl.server_defaults import server_defaults

    if uses_cpu_engine():
        cpu.install()  # before the flags are read: it adds a choice to one of them
    flags = [
        *server_defaults([]),
        "--disable-overlap-schedule",
        "--max-running-requests",
        str(SLOTS),
        "--skip-server-warmup",
    ]
    rows = build_and_run(flags, args.repeats, args.tenants)
    growth = rows[2]["idle_pass_ms"] / rows[1]["idle_pass_ms"]
    write_result(args.out, {"rows": rows, "idle_growth_1k_to_10k": growth}, table=rows)
    worst = max(rows[2]["idle_pass_ms"], rows[2]["arrival_ms"])
    passed = worst < LIMIT_MS and growth <= LIMIT_GROWTH
    print(f"at 10,000 waiting: {rows[2]['idle_pass_ms']:.3f} ms, {growth:.2f}x of 1,000")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
