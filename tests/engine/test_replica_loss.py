"""A replica of a data-parallel server dies, and the server goes on without it."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bench.servers import server_process
from tests.engine.harness import Server, generation, running_server, tiny_flags
from tests.engine.test_data_parallel import (
    CORES,
    COST,
    TWO,
    call,
    processes,
    replica,
    states,
    tokens,
)

pytestmark = pytest.mark.engine


@pytest.fixture
def doomed(tiny_model: Path, tmp_path: Path) -> Iterator[Server]:
    """A server of two replicas for one test."""
    flags = [*tiny_flags(tiny_model, slots=4), *TWO, "--load-balance-method", "program-radix"]
    flags += ["--enable-custom-logit-processor"]
    with running_server(tmp_path, flags, env=CORES, cost=COST) as running:
        yield running


def start_long_calls(
    server: Server, pool: ThreadPoolExecutor
) -> dict[int, list[Future[httpx.Response]]]:
    """Six calls at each replica, some of which wait; by replica, once all have arrived."""
    calls: dict[int, list[Future[httpx.Response]]] = {0: [], 1: []}
    for rank, futures in calls.items():
        for number in range(6):
            body = {
                "input_ids": tokens(100 * rank + number, 40),
                "sampling_params": generation(600),
                "program": {"id": f"at-{rank}-{number}"},
                "routed_dp_rank": rank,
            }
            futures.append(pool.submit(server.post, "/generate", body))
    server.wait_until(
        "the calls to arrive",
        lambda: [s["running"] + s["waiting"] for s in states(server)] == [6, 6],
    )
    return calls


def check_goes_on_alone(server: Server, left: int) -> None:
    """One replica serves the programs of both, and nothing waits for the other."""
    for number in range(6):
        for rank in (0, 1):
            answer = call(server, f"at-{rank}-{number}", tokens(100 * rank + number, 60))
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


def test_a_killed_replicas_calls_fail_and_its_programs_move(doomed: Server) -> None:
    """In flight there: HTTP 503 with what to do. In flight elsewhere: nothing happened."""
    with ThreadPoolExecutor(12) as pool:
        calls = start_long_calls(doomed, pool)
        os.kill(processes(doomed)[0], signal.SIGKILL)
        for lost in calls[0]:
            response = lost.result()
            assert response.status_code == 503
            assert "replica 0 died" in response.text
        for kept in calls[1]:
            assert len(kept.result().json()["output_ids"]) == 600
    statistics = doomed.get("/v1/programs").json()["statistics"]
    assert statistics["calls_aborted"] == 6
    assert statistics["active_calls"] == 0
    check_goes_on_alone(doomed, left=1)


def test_a_stream_that_loses_its_replica_ends_with_the_error(doomed: Server) -> None:
    """The client of a stream is told too, and its connection closed."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 3000,
        "ignore_eos": True,
        "stream": True,
        "routed_dp_rank": 1,
    }
    pid = processes(doomed)[1]
    with httpx.stream("POST", doomed.url + "/v1/chat/completions", json=body, timeout=60) as r:
        lines = r.iter_lines()
        next(lines)
        os.kill(pid, signal.SIGKILL)
        rest = "\n".join(lines)
    assert "replica 1 died" in rest
    check_goes_on_alone(doomed, left=0)


def test_a_replica_that_raises_fails_alone(doomed: Server) -> None:
    """An exception in one scheduler would end SGLang's whole server."""
    # A dict where a function is expected: found out in the scheduler.
    body = {
        "input_ids": [5],
        "sampling_params": generation(4),
        "custom_logit_processor": json.dumps({"callable": pickle.dumps(dict).hex()}),
        "routed_dp_rank": 0,
    }
    response = doomed.post("/generate", body)
    assert response.status_code == 503
    assert "replica 0 died" in response.text
    check_goes_on_alone(doomed, left=1)


def test_without_any_replica_the_server_ends(tiny_model: Path, tmp_path: Path) -> None:
    """Nobody would answer; a supervisor starts it again."""
    flags = [*tiny_flags(tiny_model, slots=4), *TWO, "--load-balance-method", "program"]
    with server_process(tmp_path, flags, env=CORES) as running:
        server = Server(running.url, running.process, running.log)
        for pid in processes(server):
            os.kill(pid, signal.SIGKILL)
        running.process.wait(timeout=60)
