"""Two replicas behind SGLang's own controller: where calls go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engine.harness import Server, generation, running_server, tiny_flags

pytestmark = pytest.mark.engine

TWO = ["--dp-size", "2"]
# What a prefix is worth depends on what it costs to compute.
COST = {"base_ms": 8.0, "per_prefill_token_ms": 0.1, "per_decode_call_ms": 0.05}
# One core each; a machine with one core lets them share it.
CORES = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1" if (os.cpu_count() or 1) > 1 else "0|0"}


@pytest.fixture(scope="module", params=["program", "program-radix"])
def server(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of two replicas, under each of our placements."""
    flags = [*tiny_flags(tiny_model, slots=8), *TWO, "--load-balance-method", request.param]
    folder = tmp_path_factory.mktemp("dp")
    with running_server(folder, flags, env=CORES, cost=COST) as running:
        yield running


def tokens(salt: int, count: int) -> list[int]:
    """A prompt that shares no prefix with another salt's."""
    return [(salt * 7919 + i * 31) % 40_000 + 10 for i in range(count)]


def call(server: Server, program: str, prompt: list[int], **more: Any) -> dict[str, Any]:
    body = {
        "input_ids": prompt,
        "sampling_params": generation(4),
        "program": {"id": program},
        **more,
    }
    answer: dict[str, Any] = server.generate(body)
    return answer


def replica(answer: dict[str, Any]) -> int:
    return int(answer["meta_info"]["program"]["replica"])


def states(server: Server) -> list[dict[str, Any]]:
    """The scheduling state of the replicas that answer, by number."""
    found = [state["program"] for state in server.get("/server_info").json()["internal_states"]]
    return sorted(found, key=lambda state: int(state["replica"]))


def processes(server: Server) -> list[int]:
    """The scheduler process of each replica."""
    return [int(state["processes"][0]["pid"]) for state in states(server)]


def test_a_long_program_stays_at_its_replica(server: Server) -> None:
    """Every call of a growing conversation finds its prefix; several programs use both replicas."""
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda number: conversation(server, number), range(6)))
    for answers in runs:
        assert len({replica(answer) for answer in answers}) == 1
        for before, answer in pairwise(answers):
            assert answer["meta_info"]["cached_tokens"] >= before["meta_info"]["prompt_tokens"] - 1
    assert {replica(answers[0]) for answers in runs} == {0, 1}


def conversation(server: Server, number: int) -> list[dict[str, Any]]:
    """Four calls, each with all of the one before in its prompt, all of them long."""
    prompt, answers = tokens(number, 2100), []
    for turn in range(4):
        answers.append(call(server, f"long-{number}", prompt))
        prompt = prompt + answers[-1]["output_ids"] + tokens(1000 + 10 * number + turn, 20)
    return answers


def test_short_calls_are_spread(server: Server) -> None:
    """Unrelated calls that come together use both replicas, and the table says who ran what."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda i: call(
                    server, f"short-{i}", tokens(5000 + i, 20), sampling_params=generation(200)
                ),
                range(8),
            )
        )
    used = [replica(answer) for answer in answers]
    assert sorted(set(used)) == [0, 1]
    programs = server.programs()
    for number, where in enumerate(used):
        assert programs[f"short-{number}"]["replicas"] == {str(where): 1}


def test_the_client_may_choose_the_replica(server: Server) -> None:
    """SGLang's own field is respected, and refused by SGLang if there is no such replica."""
    for rank in (1, 0, 1):
        assert replica(call(server, "chosen", tokens(77, 30), routed_dp_rank=rank)) == rank
    body = {"input_ids": [9], "sampling_params": generation(1), "routed_dp_rank": 7}
    assert server.post("/generate", body).status_code == 400


def test_unlabelled_batches_and_samples_work(server: Server) -> None:
    """Several prompts in one request, and n above 1, are placed call by call."""
    answers = server.generate({"text": ["One", "Two", "Three"], "sampling_params": generation(4)})
    assert [len(answer["output_ids"]) for answer in answers] == [4, 4, 4]
    assert len(server.generate({"text": "Hi", "sampling_params": generation(4, n=3)})) == 3
    assert server.get("/health_generate").status_code == 200


def test_every_replica_keeps_to_its_own_cores(server: Server) -> None:
    """Data-parallel rank r computes on entry r of the binding."""
    for rank, pid in enumerate(processes(server)):
        bound = CORES["SGLANG_CPU_OMP_THREADS_BIND"].split("|")[rank]
        assert psutil.Process(pid).cpu_affinity() == [int(bound)]


def test_every_replica_charges_by_the_same_model(server: Server) -> None:
    """A control message reaches both."""
    models = [state["cost_model"] for state in states(server)]
    assert len(models) == 2
    assert models[0] == models[1]
