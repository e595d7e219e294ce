"""What careless clients send: refused by name, and neither the server nor a ghost is the price.

The server measures its machine at the start, and is called before it is ready.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from autellix_sgl.core.calls.cost import COEFFICIENTS
from bench.servers import READY, RunningServer, command, free_port, launched
from tests.engine.harness import SETTINGS, Server, generation, tiny_flags

pytestmark = pytest.mark.engine

UNKNOWN = 99_999_999
# Of all tokens, and a mask of so many is not made.
SAMPLED = {"sampling_params": {"max_new_tokens": 2, "temperature": 1.0}}
EARLY_PROMPT = list(range(1000, 1037))
EARLY_TOKENS = 24


@dataclass
class Early:
    """What was asked as soon as the port answered, and the scheduler's state once it was ready."""

    answer: Any
    encoded: int
    state: dict[str, Any]


@dataclass
class Started:
    server: Server
    early: Early


def port_answers(server: RunningServer) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(server.url + "/model_info", timeout=5).status_code == 200
    return False


@pytest.fixture(scope="module")
def started(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A server that calibrates, and the calls that came before it was ready."""
    port = free_port()
    flags = [
        *tiny_flags(tiny_model, slots=4),
        "--program-cost-model",
        "auto",
        "--program-lease-s",
        "600",
        "--enable-metrics",
        "--abort-on-priority-when-disabled",
    ]
    log = tmp_path_factory.mktemp("careless") / "server.log"
    words = command("--port", str(port), *flags)
    with (
        launched(log, words, port, env=SETTINGS, ready=port_answers) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        server = Server(running.url, running.process, running.log)
        answer = pool.submit(server.generate, early_call("early"))
        leave_early(server)
        encoded = server.post("/encode", {"text": "a"}).status_code
        yield Started(server, when_ready(server, answer, encoded))
        assert server.alive(), f"the server died:\n{server.tail()}"
        server.wait_until_idle()
        check_nobody_is_waited_for(server)


def early_call(program: str) -> dict[str, Any]:
    body = {"input_ids": EARLY_PROMPT, "sampling_params": generation(EARLY_TOKENS)}
    return {**body, "program": {"id": program}}


def leave_early(server: Server) -> None:
    """A client that does not wait for the server to be ready."""
    with suppress(httpx.TimeoutException):
        httpx.post(server.url + "/generate", json=early_call("left-early"), timeout=0.1)


def when_ready(server: Server, answer: Future[Any], encoded: int) -> Early:
    report = answer.result()
    server.wait_until("readiness", lambda: READY in server.log.read_text(errors="replace"))
    return Early(report["meta_info"]["program"], encoded, server.state())


def check_nobody_is_waited_for(server: Server) -> None:
    """SGLang has no state of a request either: a server that is told to stop waits for those."""
    server.process.send_signal(signal.SIGTERM)
    said = re.compile(r"Remaining number of requests (\d+)")
    found = server.wait_until(
        "the end's first line", lambda: said.search(server.log.read_text(errors="replace"))
    )
    assert found[1] == "0"


@pytest.fixture(scope="module")
def server(started: Started) -> Server:
    return started.server


def check_nothing_is_left(server: Server) -> None:
    """The server answers, no call is in the table, and none had to be taken out behind the rest."""
    assert server.generate({"text": "a", "sampling_params": generation(1)})["meta_info"]
    server.wait_until("an empty table", lambda: server.statistics()["active_calls"] == 0)
    assert server.statistics()["calls_stray"] == 0
    assert not [p for p in server.programs().values() if p["active_calls"] or p["transient"]]


def test_a_call_before_ready_is_charged_by_the_fit(started: Started) -> None:
    """It ran after the calibration, alone: the steps since then are its own, and so is the sum."""
    state = started.early.state
    steps = [features for features, _ in state["samples"]]
    assert [step[1] for step in steps if step[1]] == [len(EARLY_PROMPT)]
    assert len(steps) in (EARLY_TOKENS, EARLY_TOKENS + 1)
    coefficients = [state["cost_model"][name] for name in COEFFICIENTS]
    modelled = [sum(c * f for c, f in zip(coefficients, step, strict=True)) for step in steps]
    assert started.early.answer["service_ms"] == pytest.approx(sum(modelled), abs=max(modelled))


def test_a_client_that_left_before_ready_left_nothing(started: Started) -> None:
    """Its call never was one."""
    assert "left-early" not in started.server.programs()


def test_what_is_not_charged_does_not_wait(started: Started) -> None:
    """An embedding is refused by this model at once, as ever."""
    assert started.early.encoded == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"return_sampling_mask": True, **SAMPLED}, 400),
        ({"return_sampling_mask": True, "stream": True, **SAMPLED}, 200),
        ({"text": ["a", "b"], "return_sampling_mask": True, **SAMPLED}, 400),
        ({"sampling_params": {"beam_width": 100, "max_new_tokens": 2}}, 400),
        ({"priority": 5}, 503),
        ({"priority": 5, "stream": True}, 200),
        ({"session_params": {"id": "unknown"}}, 400),
        ({"return_logprob": True, "logprob_start_len": 10**6}, 400),
        ({"text": ["a", "a b " * 6000]}, 400),
        (
            {
                "text": ["a", "b"],
                "sampling_params": [generation(4, n=2), generation(4, n=2, top_p=0)],
            },
            400,
        ),
    ],
)
def test_a_call_that_is_refused_after_it_was_stamped_leaves(
    server: Server, body: dict[str, Any], status: int
) -> None:
    """By a scheduler, in the middle of a batch, streamed or not: it is in no table afterwards."""
    base = {"text": "a", "sampling_params": generation(2), "program": {"id": "refused"}}
    response = server.post("/generate", {**base, **body})
    assert response.status_code == status, response.text
    assert status != 200 or "abort" in response.text
    check_nothing_is_left(server)


@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        ("/generate", {"input_ids": [UNKNOWN]}),
        ("/generate", {"input_ids": [49152]}),
        ("/generate", {"input_ids": [1, 2, -1]}),
        ("/generate", {"input_ids": [2**70]}),
        ("/generate", {"input_ids": [[1], [UNKNOWN]]}),
        ("/generate", {"input_ids": [[1], [UNKNOWN]], "sampling_params": generation(2, n=2)}),
        ("/generate", {"input_ids": [[1], []]}),
        ("/v1/completions", {"prompt": [UNKNOWN]}),
        ("/v1/completions", {"prompt": [[1], [-1]]}),
    ],
)
def test_a_prompt_that_the_model_cannot_run_is_refused_by_name(
    server: Server, path: str, prompt: dict[str, Any]
) -> None:
    """HTTP 400 with the field; SGLang alone would end the server with all calls on it."""
    body = {"model": "tiny", "max_tokens": 2, "sampling_params": generation(2), **prompt}
    response = server.post(path, body)
    assert response.status_code == 400, response.text
    assert next(iter(prompt)) in response.text
    check_nothing_is_left(server)


@pytest.mark.parametrize(
    "field",
    [
        {"positional_embed_overrides": 5},
        {"session_params": {"id": []}},
        {"return_logprob": True, "top_logprobs_num": 10**6},
        {"return_logprob": True, "logprob_start_len": [0]},
    ],
)
def test_a_field_that_ends_a_scheduler_is_refused_by_name(
    server: Server, field: dict[str, Any]
) -> None:
    """HTTP 400; what is at the top of a body is not all checked by SGLang."""
    response = server.post("/generate", {"text": "a", "sampling_params": generation(2), **field})
    assert response.status_code == 400, response.text
    assert list(field)[-1] in response.text
    check_nothing_is_left(server)


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_new_tokens": 1.5},
        {"n": "x"},
        {"unknown": 1},
        {"logit_bias": {"1": "x"}},
        {"skip_special_tokens": "x"},
    ],
)
def test_a_sampling_parameter_of_the_wrong_type_is_refused(
    server: Server, parameters: dict[str, Any]
) -> None:
    """HTTP 400 by SGLang's own reading of the body, or by ours; it says what is expected."""
    body = {"text": "a", "sampling_params": {"max_new_tokens": 2, **parameters}}
    response = server.post("/generate", body)
    assert response.status_code == 400, response.text
    assert "expected" in response.text or next(iter(parameters)) in response.text
    check_nothing_is_left(server)


@pytest.mark.parametrize(
    "parameters",
    [{"top_k": 10**10}, {"stop_token_ids": [10**9], "min_new_tokens": 1}],
)
def test_a_sampling_parameter_that_no_model_has_is_refused_by_name(
    server: Server, parameters: dict[str, Any]
) -> None:
    """HTTP 400 with the field; a scheduler would end in the middle of a step."""
    body = {"text": "a", "sampling_params": {"max_new_tokens": 2, **parameters}}
    response = server.post("/generate", body)
    assert response.status_code == 400, response.text
    assert f"sampling_params.{next(iter(parameters))}" in response.text
    check_nothing_is_left(server)


def test_a_beam_that_fits_is_charged_as_one_call(server: Server) -> None:
    """Its last output is made another way."""
    parameters = {"beam_width": 2, "max_new_tokens": 4}
    server.generate({"text": "a", "sampling_params": parameters, "program": {"id": "beam"}})
    program = server.get("/v1/programs/beam").json()
    assert (program["calls_completed"], program["calls_aborted"]) == (1, 0)
    assert program["service_ms"] > 0


def test_parallel_samples_are_waited_for_once_each(server: Server) -> None:
    """The ids that SGLang gives them before it gives them others are forgotten; in streams, too."""
    body = {"text": ["a", "b"], "sampling_params": generation(2, n=3)}
    assert len(server.generate(body)) == 6
    assert server.post("/generate", {**body, "stream": True}).text.endswith("data: [DONE]\n\n")
    check_nothing_is_left(server)


def test_the_last_id_of_the_vocabulary_is_one(server: Server) -> None:
    """As is the first."""
    body = {"input_ids": [49151, 0], "sampling_params": generation(2)}
    assert server.generate(body)["meta_info"]["completion_tokens"] == 2
