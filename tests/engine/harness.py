"""Real servers for tests: started as a user starts them, watched through their log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.servers import RunningServer, server_process

# One unit of service a step, whatever it computes: what a call costs is what it was forced to do.
UNIT_COST = {"base_ms": 1.0}

# SGLang checks at every step that no KV leaked. One thread: the tiny model's operations are too
# small to share, and threads that wait for each other are slow beside anything else that runs.
SETTINGS = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1", "OMP_NUM_THREADS": "1"}


class Server(RunningServer):
    """A running server and the questions tests ask it."""

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=300, **kwargs)

    def generate(self, body: Mapping[str, Any]) -> Any:
        response = self.post("/generate", dict(body))
        response.raise_for_status()
        return response.json()

    def state(self) -> dict[str, Any]:
        """The first replica's scheduling state."""
        state: dict[str, Any] = self.get("/server_info").json()["internal_states"][0]["program"]
        return state

    def wait_until(self, what: str, condition: Any, timeout_s: float = 60.0) -> Any:
        """Poll *condition* until it is true; the message says *what* was waited for."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout_s:g} s: {what}\n{self.tail()}")

    def wait_until_idle(self) -> dict[str, Any]:
        """Until no call waits, runs, holds a lock or is in the table; returns the state.

        What has left must have said so: nothing may be there for the table's own check to find.
        """

        def idle() -> dict[str, Any] | None:
            state = self.state()
            busy = state["waiting"] or state["running"] or state["locked_tokens"]
            return None if busy or self.statistics()["active_calls"] else state

        state: dict[str, Any] = self.wait_until("an idle server", idle)
        assert self.statistics()["calls_stray"] == 0
        return state

    def statistics(self) -> dict[str, int]:
        """The process table's counters."""
        counters: dict[str, int] = self.get("/v1/programs").json()["statistics"]
        return counters

    def programs(self) -> dict[str, dict[str, Any]]:
        page = self.get("/v1/programs", params={"limit": 1000}).json()
        return {program["id"]: program for program in page["data"]}


def cost_file(folder: Path, model: Mapping[str, float] = UNIT_COST) -> str:
    path = folder / "cost.json"
    path.write_text(json.dumps(model), encoding="utf-8")
    return str(path)


@contextmanager
def running_server(
    folder: Path,
    flags: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cost: Mapping[str, float] | None = UNIT_COST,
    survives: bool = True,
) -> Iterator[Server]:
    """Start a server on a free port, wait until it answers, and stop it whatever happens.

    On leaving, the server must still be alive: its scheduler dies on a failed check. Unless the
    tests are to kill it, which *survives* False says.
    """
    cost_flags = [] if cost is None else ["--program-cost-model", cost_file(folder, cost)]
    settings = {**SETTINGS, **(env or {})}
    with server_process(folder, [*cost_flags, *flags], env=settings) as running:
        server = Server(running.url, running.process, running.log)
        yield server
        assert server.alive() or not survives, f"the server died:\n{server.tail()}"


def tiny_flags(model: Path, *, slots: int, tokens: int = 32768) -> list[str]:
    """Flags for the tiny model in fp32, so that batch composition changes no greedy token."""
    return [
        "--model-path",
        str(model),
        "--load-format",
        "dummy",
        "--dtype",
        "float32",
        "--context-length",
        "4096",
        "--max-total-tokens",
        str(tokens),
        "--max-running-requests",
        str(slots),
    ]


def generation(tokens: int, **more: Any) -> dict[str, Any]:
    """Sampling parameters for exactly *tokens* greedy tokens."""
    return {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 0.0, **more}
