"""Replicas of a data-parallel server die one after the other: the tests' order matters."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.engine.harness import Server, generation
from tests.engine.replicas import (
    check_goes_on_alone,
    conversation,
    processes,
    replica,
    states,
    tokens,
    two_replicas,
)

pytestmark = pytest.mark.engine

# Tokens of the calls at each replica: those of the first run until it is killed.
LENGTHS = (3000, 1500)


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Placed by the paper's rule."""
    folder = tmp_path_factory.mktemp("loss")
    with two_replicas(tiny_model, folder, "program", survives=False) as running:
        yield running


@pytest.mark.parametrize("busy", [0, 1])
def test_a_programs_long_calls_share_a_replica(server: Server, busy: int) -> None:
    """Algorithm 2, while both are there: the one that had fewer calls at the first."""
    held = {
        "input_ids": tokens(50 + busy, 40),
        "sampling_params": generation(1000),
        "routed_dp_rank": busy,
    }
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(server.generate, held)
        server.wait_until("the call that holds one", lambda: in_system(server)[busy] == 1)
        used = {replica(answer) for answer in conversation(server, busy)}
        holding.result()
    assert used == {1 - busy}


def test_a_killed_replicas_calls_fail_and_its_programs_move(server: Server) -> None:
    """In flight there: HTTP 503 with what to do, in a stream too. Elsewhere: nothing happened."""
    with ThreadPoolExecutor(14) as pool:
        # One after the other: the calls elsewhere must not have ended when the last one begins.
        stream = pool.submit(rest_of_stream, server)
        server.wait_until("the stream to begin", lambda: in_system(server)[0] == 1)
        calls = start_long_calls(server, pool)
        server.wait_until("the calls to begin", lambda: all_begun(in_system(server)))
        os.kill(processes(server)[0], signal.SIGKILL)
        for lost in calls[0]:
            response = lost.result()
            assert response.status_code == 503
            assert "replica 0 died" in response.text
        assert "replica 0 died" in stream.result()
        for kept in calls[1]:
            assert len(kept.result().json()["output_ids"]) == LENGTHS[1]
    statistics = server.get("/v1/programs").json()["statistics"]
    assert statistics["calls_aborted"] == 7
    assert statistics["active_calls"] == 0
    check_goes_on_alone(server, left=1)
    [answer, *_] = conversation(server, 0)
    assert replica(answer) == 1


def start_long_calls(
    server: Server, pool: ThreadPoolExecutor
) -> dict[int, list[Future[httpx.Response]]]:
    """Six calls at each replica, by replica."""
    calls: dict[int, list[Future[httpx.Response]]] = {0: [], 1: []}
    for rank, futures in calls.items():
        for number in range(6):
            body = {
                "input_ids": tokens(100 * rank + number, 40),
                "sampling_params": generation(LENGTHS[rank]),
                "program": {"id": f"at-{rank}-{number}"},
                "routed_dp_rank": rank,
            }
            futures.append(pool.submit(server.post, "/generate", body))
    return calls


def rest_of_stream(server: Server) -> str:
    """What comes of a long stream of replica 0 until it ends."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 3000,
        "ignore_eos": True,
        "stream": True,
        "routed_dp_rank": 0,
    }
    with httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=60) as r:
        return "\n".join(r.iter_lines())


def all_begun(calls: list[int]) -> bool:
    """Whether all of the first replica's are there, and the other is at work too."""
    return calls[0] == 7 and calls[1] > 0


def in_system(server: Server) -> list[int]:
    """The calls in each replica."""
    return [state["running"] + state["waiting"] for state in states(server)]


def test_without_any_replica_the_server_ends(server: Server) -> None:
    """Nobody would answer; a supervisor starts it again."""
    for pid in processes(server):
        os.kill(pid, signal.SIGKILL)
    server.process.wait(timeout=60)
