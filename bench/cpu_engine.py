"""How fast the CPU engine is: its attention backend against another engine, paired in one run.

    python -m bench.cpu_engine speed --against torch_native --out bench/results/cpu_engine
    python -m bench.cpu_engine speed --against vllm --vllm-python VENV/bin/python --out ...
    python -m bench.cpu_engine text --out bench/results/cpu_engine_text

``speed`` runs both servers at once, with the same weights, and measures them in turns: in every
round each workload goes to one and then the other, the order changing from round to round. Only
ratios of one round are comparable on a machine that does other things too. Prompts are random
tokens, so nothing is cached. A decode time is a long answer's less a one-token answer's.

``text`` compares greedy answers in float32, token by token.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import autellix_sgl.runtime  # noqa: F401 (prepares this process and the servers' for sglang)
from autellix_sgl import default_model
from autellix_sgl.runtime.cpu import BACKEND_NAME, install
from bench.report_file import add_output_argument, write_result

START_SECONDS = 900.0
ANSWER_SECONDS = 600.0
TOKEN_IDS = range(1_000, 40_000)
CONTEXT_TOKENS = 4_096
POOL_TOKENS = 32_768

PROMPTS = 50
ANSWER_TOKENS = 32
SUBJECTS = ("the sea", "a lost key", "prime numbers", "Paris", "bread", "clouds", "trains")
OPENINGS = (
    "Write one sentence about {}.",
    "Q: What is {}?\nA:",
    "Once upon a time, {} was",
    "List three facts on {}:\n1.",
    "def describe():\n    # about {}\n    return",
    "{} in one word:",
    "The history of {} begins",
    "Dear friend, I write to you about {}, because",
)


@dataclass(frozen=True, slots=True)
class Workload:
    """One number to measure: tokens a second, decoded or prefilled."""

    name: str
    batch: int
    prompt_tokens: int
    answer_tokens: int


WORKLOADS = (
    Workload("decode, batch 1", 1, 300, 97),
    Workload("decode, batch 8", 8, 300, 97),
    Workload("prefill, 8 x 300", 8, 300, 1),
    Workload("prefill, 1 x 2000", 1, 2_000, 1),
)


@dataclass(frozen=True, slots=True)
class Engine:
    """How to start a server that speaks the OpenAI completions API."""

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Server:
    """A running engine."""

    engine: Engine
    port: int
    model: str
    process: subprocess.Popen[bytes]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stopped, so that not even its idle threads take a core from who is measured meanwhile."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def complete(self, prompts: list[list[int]], tokens: int) -> Any:
        body = {
            "model": self.model,
            "prompt": prompts,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        return post(f"http://127.0.0.1:{self.port}/v1/completions", body)

    def seconds(self, workload: Workload, tokens: int, rng: random.Random) -> float:
        prompts = [rng.choices(TOKEN_IDS, k=workload.prompt_tokens) for _ in range(workload.batch)]
        start = time.perf_counter()
        answer = self.complete(prompts, tokens)
        elapsed = time.perf_counter() - start
        assert answer["usage"]["completion_tokens"] == workload.batch * tokens, answer["usage"]
        return elapsed

    def tokens_per_second(self, workload: Workload, rng: random.Random) -> float:
        first = self.seconds(workload, 1, rng)
        if workload.answer_tokens == 1:
            return workload.batch * workload.prompt_tokens / first
        whole = self.seconds(workload, workload.answer_tokens, rng)
        return workload.batch * (workload.answer_tokens - 1) / (whole - first)


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
        return json.load(response)


def sglang_engine(backend: str, model: str, port: int, *, dtype: str = "auto") -> Engine:
    """SGLang with one of its CPU backends; ours gets what ``install`` sets up, others nothing."""
    flags = {
        "--model-path": model,
        "--served-model-name": model,
        "--attention-backend": backend,
        "--device": "cpu",
        "--dtype": dtype,
        "--sampling-backend": "pytorch",
        "--max-total-tokens": str(POOL_TOKENS),
        "--max-running-requests": "16",
        "--context-length": str(CONTEXT_TOKENS),
        "--port": str(port),
    }
    words = [word for pair in flags.items() for word in pair]
    # An idle scheduler would otherwise keep a core busy while the other engine is measured.
    words += ["--disable-cuda-graph", "--sleep-on-idle"]
    return Engine(backend, (sys.executable, "-m", "bench.cpu_engine", "serve", *words))


def vllm_engine(python: str, model: str, port: int) -> Engine:
    """vLLM for CPU, from its own virtual environment, with every core."""
    command = (
        python,
        *("-m", "vllm.entrypoints.openai.api_server", "--model", model),
        *("--max-num-seqs", "16", "--max-model-len", str(CONTEXT_TOKENS), "--port", str(port)),
        "--no-enable-prefix-caching",
    )
    environment = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    }
    openmp = Path(python).parent.parent / "lib" / "libiomp5.so"
    if openmp.exists():
        environment["LD_PRELOAD"] = str(openmp)
    return Engine("vllm", command, environment)


@contextlib.contextmanager
def running(engine: Engine, port: int, model: str) -> Iterator[Server]:
    """Start *engine*, wait until it answers, and end its processes afterwards."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            engine.command,
            env=os.environ | engine.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_for(process, port, log)
            yield Server(engine, port, model, process)
        finally:
            _end(process)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: IO[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        time.sleep(1)
    log.seek(0)
    raise SystemExit(f"the server did not start:\n{log.read()[-4_000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server's session: it is the leader of all processes it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        time.sleep(1)


def measure_speed(ours: Server, other: Server, rounds: int) -> list[dict[str, Any]]:
    """A row a workload: each engine's median, and the median of the rounds' ratios."""
    samples: dict[str, list[tuple[float, float]]] = {workload.name: [] for workload in WORKLOADS}
    for number in range(rounds + 1):
        for workload in WORKLOADS:
            seed = f"{number} {workload.name}"  # each engine gets the same prompts
            order = [(ours, other), (other, ours)]
            speeds = {}
            for server, idle in order if number % 2 else reversed(order):
                with idle.paused():
                    speeds[server.port] = server.tokens_per_second(workload, random.Random(seed))
            pair = speeds[ours.port], speeds[other.port]
            label = f"round {number}" if number else "warm-up"
            print(f"{label}: {workload.name}: {pair[0]:.1f} against {pair[1]:.1f}", flush=True)
            if number:
                samples[workload.name].append(pair)
    return [_row(name, pairs, ours, other) for name, pairs in samples.items()]


def _row(
    name: str, pairs: list[tuple[float, float]], ours: Server, other: Server
) -> dict[str, Any]:
    ratios = [a / b for a, b in pairs]
    return {
        "workload (tokens/s)": name,
        ours.engine.name: statistics.median(a for a, _ in pairs),
        other.engine.name: statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def speed(args: argparse.Namespace) -> None:
    model = args.model or str(default_model.ensure())
    ports = (args.port, args.port + 1)
    ours = sglang_engine(BACKEND_NAME, model, ports[0])
    if args.against == "vllm":
        other = vllm_engine(args.vllm_python, model, ports[1])
    else:
        other = sglang_engine(args.against, model, ports[1])
    load = [os.getloadavg()]
    with (
        running(ours, ports[0], model) as our_server,
        running(other, ports[1], model) as other_server,
    ):
        rows = measure_speed(our_server, other_server, args.rounds)
    load.append(os.getloadavg())
    result = {"rounds": args.rounds, "load_average_before_and_after": load, "rows": rows}
    write_result(args.out, result, table=rows)


def prompts() -> list[str]:
    return [
        OPENINGS[i % len(OPENINGS)].format(SUBJECTS[i // len(OPENINGS) % len(SUBJECTS)])
        for i in range(PROMPTS)
    ]


def greedy_answers(server: Server) -> list[list[int]]:
    body = {
        "text": prompts(),
        "sampling_params": {"temperature": 0, "max_new_tokens": ANSWER_TOKENS, "ignore_eos": True},
    }
    answers = post(f"http://127.0.0.1:{server.port}/generate", body)
    return [answer["output_ids"] for answer in answers]


def text(args: argparse.Namespace) -> None:
    model = args.model or str(default_model.ensure())
    answers = []
    for backend in (BACKEND_NAME, "torch_native"):
        engine = sglang_engine(backend, model, args.port, dtype="float32")
        with running(engine, args.port, model) as server:
            answers.append(greedy_answers(server))
    equal = sum(a == b for a, b in zip(*answers, strict=True))
    rows = [{"prompts": PROMPTS, "tokens each": ANSWER_TOKENS, "equal": equal}]
    write_result(args.out, {"rows": rows}, table=rows)
    if equal < PROMPTS:
        raise SystemExit("greedy answers differ in float32")


def scheduler_process(*args: Any, **kwargs: Any) -> None:
    from sglang.srt.managers import scheduler

    install()
    scheduler.run_scheduler_process(*args, **kwargs)


def serve(flags: Sequence[str]) -> None:
    """SGLang's own server; with our backend if it is the one that is asked for."""
    from sglang.srt.entrypoints.http_server import launch_server
    from sglang.srt.managers.scheduler import run_scheduler_process
    from sglang.srt.server_args import prepare_server_args

    ours = BACKEND_NAME in flags
    if ours:
        install()
    launch_server(
        prepare_server_args(list(flags)),
        run_scheduler_process_func=scheduler_process if ours else run_scheduler_process,
    )


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n")
    top = argparse.ArgumentParser(
        prog="python -m bench.cpu_engine",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    for name, run in (("speed", speed), ("text", text)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--model", help="A local folder; the default model if absent.")
        command.add_argument("--port", type=int, default=31_700, help="The first of two ports.")
        add_output_argument(command)
        if name == "speed":
            command.add_argument("--rounds", type=int, default=5)
            command.add_argument("--against", choices=["torch_native", "vllm"], required=True)
            command.add_argument("--vllm-python", help="The Python of a venv that has vllm-cpu.")
    return top


def main(argv: Sequence[str]) -> None:
    if argv[:1] == ["serve"]:
        serve(argv[1:])
        return
    top = parser()
    args = top.parse_args(argv)
    if getattr(args, "against", None) == "vllm" and args.vllm_python is None:
        top.error("--against vllm needs --vllm-python")
    # A killed measurement ends its servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    args.run(args)


if __name__ == "__main__":
    main(sys.argv[1:])
