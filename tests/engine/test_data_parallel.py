"""Two replicas behind SGLang's own controller: where calls go. The last test ends one of them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from tests.engine.harness import Server, generation
from tests.engine.replicas import (
    CORES,
    call,
    check_goes_on_alone,
    conversation,
    processes,
    replica,
    states,
    tokens,
    two_replicas,
)

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Placement by cost; a request may bring code, to make a replica fail."""
    folder = tmp_path_factory.mktemp("dp")
    more = ["--enable-custom-logit-processor"]
    with two_replicas(tiny_model, folder, "program-radix", *more) as running:
        yield running


def test_a_long_program_stays_at_its_replica(server: Server) -> None:
    """Every call of a growing conversation finds its prefix; several programs use both replicas."""
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda number: conversation(server, number), range(6)))
    for answers in runs:
        assert len({replica(answer) for answer in answers}) == 1
        for before, answer in pairwise(answers):
            assert answer["meta_info"]["cached_tokens"] >= before["meta_info"]["prompt_tokens"] - 1
    assert {replica(answers[0]) for answers in runs} == {0, 1}


def test_short_calls_are_spread(server: Server) -> None:
    """Unrelated calls that come together use both replicas, and the table says who ran what."""
    long = generation(200)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda i: call(server, f"short-{i}", tokens(5000 + i, 20), sampling_params=long),
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


def test_a_replica_that_raises_fails_alone(server: Server) -> None:
    """An exception in one scheduler would end SGLang's whole server."""
    # A dict where a function is expected: found out in the scheduler.
    body = {
        "input_ids": [5],
        "sampling_params": generation(4),
        "custom_logit_processor": json.dumps({"callable": pickle.dumps(dict).hex()}),
        "routed_dp_rank": 0,
    }
    response = server.post("/generate", body)
    assert response.status_code == 503
    assert "replica 0 died" in response.text
    check_goes_on_alone(server, left=1)
