"""Start a real server as a user does, wait until it answers, and leave no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

READY = "autellix_sgl is ready at"
START_TIMEOUT_S = 300.0


class StartError(RuntimeError):
    """A server did not start; the message ends with its log's last lines."""


@dataclass(frozen=True)
class RunningServer:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def alive(self) -> bool:
        return self.process.poll() is None

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*flags: str) -> list[str]:
    """The command line of a server with *flags*."""
    return [sys.executable, "-m", "autellix_sgl.launch_server", *flags]


@contextmanager
def server_process(
    folder: Path, flags: Sequence[str], *, env: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """A server on a free port, its log in *folder*; raises StartError if it does not come up."""
    port = free_port()
    log = folder / f"server-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command("--port", str(port), *flags),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
    server = RunningServer(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        _stop(process)


def _wait_until_ready(server: RunningServer) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while READY not in server.log.read_text(errors="replace"):
        if not server.alive():
            raise StartError(f"the server did not start:\n{server.tail()}")
        if time.monotonic() > deadline:
            raise StartError(f"not ready within {START_TIMEOUT_S:g} s:\n{server.tail()}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and every process of its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
