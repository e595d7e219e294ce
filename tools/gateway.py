"""Several servers of ours behind SGLang's model gateway, each program pinned to one of them.

    pip install smg==1.13.0
    python tools/gateway.py --servers 2 --port 30000 -- --model-path Qwen/Qwen3-8B

Whatever follows `--` goes to every server. Once all of it answers, one JSON line says where each
part is; Ctrl-C or SIGTERM stops the gateway, lets the servers finish their calls, and stops them.
docs/deploy.md explains the gateway's flags and what a client sends.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence

HOST = "127.0.0.1"
START_TIMEOUT_S = 600.0
POLL_S = 0.2

# manual       a routing key (header X-SMG-Routing-Key) always goes to the same healthy server
# min_group    a new key to the server with the fewest of them
# no retries   a call whose server dies is the client's to send again: it may have had an effect
GATEWAY_FLAGS = (
    *("--policy", "manual", "--assignment-mode", "min_group", "--disable-retries"),
    *("--health-check-interval-secs", "2", "--health-check-timeout-secs", "10"),
    *("--health-failure-threshold", "2", "--health-success-threshold", "1"),
    *("--log-level", "warn"),
)


def main(argv: Sequence[str]) -> int:
    """Start everything, wait for a signal, stop everything."""
    own, server_flags = split(argv)
    args = parser().parse_args(own)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    ports = [args.port, *free_ports(args.servers + 1)]
    gateway_port, metrics_port, *server_ports = ports
    servers = [
        start_server(port, server_flags, cores(args.cores, number))
        for number, port in enumerate(server_ports)
    ]
    gateways: list[subprocess.Popen[bytes]] = []
    try:
        urls = [f"http://{HOST}:{port}" for port in server_ports]
        wait_for(lambda: all(answers(f"{url}/health") for url in urls), servers, stopped)
        gateways.append(start_gateway(gateway_port, metrics_port, urls))
        url = f"http://{HOST}:{gateway_port}"
        wait_for(lambda: healthy_servers(url) == len(urls), [*servers, *gateways], stopped)
        parts = [{"url": u, "pid": s.pid} for u, s in zip(urls, servers, strict=True)]
        sys.stdout.write(json.dumps({"gateway": url, "servers": parts}) + "\n")
        sys.stdout.flush()
        stopped.wait()
    finally:
        stop(gateways)
        stop(servers)
    return 0


def parser() -> argparse.ArgumentParser:
    """Our own words; see :func:`split`."""
    made = argparse.ArgumentParser(
        prog="python tools/gateway.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--servers", type=int, default=2, help="[%(default)s]")
    made.add_argument("--port", type=int, default=30000, help="The gateway's. [%(default)s]")
    made.add_argument(
        "--cores", help='Without a GPU: the cores of each server, as "0-3|4-7". [all of them]'
    )
    return made


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is before the first `--` and what is after it."""
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def free_ports(count: int) -> list[int]:
    """As many different ones, which somebody else may still take."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind((HOST, 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def cores(binding: str | None, number: int) -> dict[str, str]:
    """The environment that keeps server *number* on its own cores."""
    return {} if binding is None else {"SGLANG_CPU_OMP_THREADS_BIND": binding.split("|")[number]}


def start_server(port: int, flags: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    """One of the servers."""
    words = [sys.executable, "-m", "autellix_sgl.launch_server", "--host", HOST]
    words += ["--port", str(port), *flags]
    return start(words, env)


def start_gateway(port: int, metrics_port: int, urls: Sequence[str]) -> subprocess.Popen[bytes]:
    """SGLang's model gateway in front of the servers at *urls*."""
    words = [sys.executable, "-m", "smg", "launch", "--host", HOST, "--port", str(port)]
    words += ["--prometheus-port", str(metrics_port), *GATEWAY_FLAGS, "--worker-urls", *urls]
    return start(words, {})


def start(words: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process whose output goes to our standard error, in a session of its own."""
    return subprocess.Popen(
        words, stdout=sys.stderr, env={**os.environ, **env}, start_new_session=True
    )


def wait_for(
    ready: Callable[[], bool],
    processes: Sequence[subprocess.Popen[bytes]],
    stopped: threading.Event,
) -> None:
    """Until *ready*; raises SystemExit if a process ends before, or it takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        ended = [process for process in processes if process.poll() is not None]
        if ended:
            raise SystemExit(f"ended with status {ended[0].returncode}: {ended[0].args}")
        if time.monotonic() > deadline:
            raise SystemExit(f"not ready within {START_TIMEOUT_S:g} s")
        if stopped.wait(POLL_S):
            raise SystemExit("stopped before everything answered")


def answers(url: str) -> bool:
    """Whether there is a good answer."""
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def healthy_servers(url: str) -> int:
    """How many servers the gateway at *url* would send calls to."""
    try:
        with urllib.request.urlopen(f"{url}/readiness", timeout=5) as response:
            return int(json.load(response)["healthy_workers"])
    except OSError:
        return 0


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask them to end, servers finishing their calls first; insist on it after a while."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
