"""A server of two replicas, and what tests ask of its replicas."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.harness import Server, generation, running_server, tiny_flags

# What a prefix is worth depends on what it costs to compute.
COST = {"base_ms": 8.0, "per_prefill_token_ms": 0.1, "per_decode_call_ms": 0.05}
# One core each; a machine with one core lets them share it.
CORES = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1" if (os.cpu_count() or 1) > 1 else "0|0"}


@contextmanager
def two_replicas(
    model: Path, folder: Path, placement: str, *more: str, survives: bool = True
) -> Iterator[Server]:
    """A server of two replicas under one of our placements."""
    flags = [*tiny_flags(model, slots=8), "--dp-size", "2", "--load-balance-method", placement]
    with running_server(
        folder, [*flags, *more], env=CORES, cost=COST, survives=survives
    ) as running:
        yield running


def tokens(salt: int, count: int) -> list[int]:
    """A prompt that shares no prefix with another salt's."""
    return [(salt * 7919 + i * 31) % 40_000 + 10 for i in range(count)]


def call(server: Server, program: str, prompt: list[int], **more: Any) -> dict[str, Any]:
    """A short call of *program*, answered."""
    body = {
        "input_ids": prompt,
        "sampling_params": generation(4),
        "program": {"id": program},
        **more,
    }
    answer: dict[str, Any] = server.generate(body)
    return answer


def replica(answer: dict[str, Any]) -> int:
    """Which one has run the call."""
    return int(answer["meta_info"]["program"]["replica"])


def states(server: Server) -> list[dict[str, Any]]:
    """The scheduling state of the replicas that answer, by number."""
    found = [state["program"] for state in server.get("/server_info").json()["internal_states"]]
    return sorted(found, key=lambda state: int(state["replica"]))


def processes(server: Server) -> list[int]:
    """The scheduler process of each replica."""
    return [int(state["processes"][0]["pid"]) for state in states(server)]


def conversation(server: Server, number: int) -> list[dict[str, Any]]:
    """Four calls, each with all of the one before in its prompt, all of them long."""
    prompt, answers = tokens(number, 2100), []
    for turn in range(4):
        answers.append(call(server, f"long-{number}", prompt))
        prompt = prompt + answers[-1]["output_ids"] + tokens(1000 + 10 * number + turn, 20)
    return answers


def check_goes_on_alone(server: Server, left: int) -> None:
    """One replica serves the programs of both, and nothing waits for the other."""
    for number in range(6):
        answer = call(server, f"at-{number % 2}-{number}", tokens(number, 60))
        assert replica(answer) == left
    assert [state["replica"] for state in states(server)] == [left]
    assert server.get("/health_generate").status_code == 200
    assert server.post("/flush_cache", {}).status_code == 200
    dead = {"input_ids": [9], "sampling_params": generation(1), "routed_dp_rank": 1 - left}
    assert server.post("/generate", dead).status_code == 400
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            server.url + "/generate",
            json={"input_ids": [5], "sampling_params": generation(3000), "rid": "gone"},
            timeout=0.5,
        )
    server.wait_until("the abort", lambda: not states(server)[0]["running"])
