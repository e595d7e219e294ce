"""Start a real server as a user does, wait until it answers, and leave no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def announced(server: RunningServer) -> bool:
    """Whether a server of ours has said that it answers."""
    return READY in server.log.read_text(errors="replace")


@contextmanager
def server_process(
    folder: Path, flags: Sequence[str], *, env: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """A server on a free port, its log in *folder*; raises StartError if it does not come up."""
    port = free_port()
    words = command("--port", str(port), *flags)
    with launched(folder / f"server-{port}.log", words, port, env=env) as server:
        yield server


@contextmanager
def launched(
    log: Path,
    words: Sequence[str],
    port: int,
    *,
    env: Mapping[str, str] | None = None,
    ready: Callable[[RunningServer], bool] = announced,
) -> Iterator[RunningServer]:
    """The command *words*, which is to serve on *port*, in a session of its own, once *ready*.

    Leaving ends every process of that session. Raises StartError if it does not come up.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            words,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
    server = RunningServer(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_until(ready, server)
        yield server
    finally:
        _stop(process)


def _wait_until(ready: Callable[[RunningServer], bool], server: RunningServer) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready(server):
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
