"""SGLang's language and native API: as its documentation has them, and as programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import autellix_sgl
from tests.engine.harness import Server, generation, running_server, tiny_flags

pytestmark = pytest.mark.engine

LONG_TEXT = "Which of these is the best way to spend a rainy afternoon in a small town? " * 2


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = tiny_flags(tiny_model, slots=8)
    with running_server(tmp_path_factory.mktemp("server"), flags) as running:
        yield running
        running.wait_until_idle()


@pytest.fixture(scope="module")
def functions() -> Any:
    """The programs; imported only now, since importing sglang takes seconds."""
    import autellix_sgl.language  # noqa: F401 (first: without a GPU, sglang needs it)
    from tests.engine import language_functions

    return language_functions


@pytest.fixture(params=["SGLang's", "ours"])
def backend(server: Server, functions: Any, request: pytest.FixtureRequest) -> Any:
    ours = request.param == "ours"
    kind = autellix_sgl.RuntimeEndpoint if ours else functions.sgl.RuntimeEndpoint
    return kind(server.url)


@pytest.fixture
def ours(server: Server) -> Any:
    return autellix_sgl.RuntimeEndpoint(server.url)


def test_the_documentations_programs_run_as_they_are(backend: Any, functions: Any) -> None:
    """Generation, turns, forks, choices and regular expressions, on either backend."""
    assert functions.few_shot.run(question="What is the capital of Italy?", backend=backend)[
        "answer"
    ]
    turns = functions.multi_turn.run(first="Hello", second="Again", backend=backend)
    assert turns["answer_1"]
    assert turns["answer_2"]
    assert [message["role"] for message in turns.messages()][:2] == ["system", "user"]
    tips = functions.tip_suggestion.run(backend=backend)
    assert "Tip 2:" in tips.text()
    assert tips["summary"]
    chosen = functions.choose.run(question="What is 5 times 7?", backend=backend)
    assert chosen["tool"] in ("calculator", "search engine")
    assert chosen["number"].isdecimal()


def test_batches_and_streams_run_as_they_are(backend: Any, functions: Any) -> None:
    """run_batch over arguments, and text as it comes."""
    questions = [{"question": f"What is {i} plus {i}?"} for i in range(4)]
    states = functions.few_shot.run_batch(questions, backend=backend, num_threads=4)
    assert len([state["answer"] for state in states]) == 4
    streamed = functions.multi_turn.run(first="Hello", second="Again", backend=backend, stream=True)
    assert "".join(streamed.text_iter("answer_1")) == streamed["answer_1"]
    assert streamed["answer_2"]


def test_a_backend_can_be_the_default_and_asked_about_its_server(
    backend: Any, functions: Any
) -> None:
    """What else the documentation does with one."""
    functions.sgl.set_default_backend(backend)
    assert functions.few_shot.run(question="Why?")["answer"] is not None
    assert backend.get_model_name()
    assert backend.get_server_info()["version"]
    assert functions.sgl.flush_cache() is None


@pytest.fixture
def opened(server: Server) -> Iterator[Any]:
    """The programs that were opened and completed since the start of the test."""
    before = server.get("/v1/programs").json()["statistics"]

    def since() -> dict[str, int]:
        now = server.get("/v1/programs").json()["statistics"]
        return {name: now[name] - before[name] for name in ("opened", "ended", "calls_completed")}

    return since


def test_a_run_is_one_program_that_ends_with_its_last_call(
    server: Server, ours: Any, functions: Any, opened: Any
) -> None:
    """Whatever it forks, and also if nobody waits for it."""
    functions.tip_suggestion.run(backend=ours)
    server.wait_until("the end", lambda: opened()["ended"] == 1)
    assert opened()["opened"] == 1
    functions.multi_turn.run(first="Hello", second="Again", backend=ours, stream=True)
    server.wait_until("the end", lambda: opened()["ended"] == 2)
    assert opened()["opened"] == 2
    assert not [program for program in server.programs() if program.startswith("sgl-")]


def test_each_run_of_a_batch_is_a_program(
    server: Server, ours: Any, functions: Any, opened: Any
) -> None:
    """They share nothing but the backend."""
    functions.few_shot.run_batch(
        [{"question": f"Why {i}?"} for i in range(5)], backend=ours, num_threads=5
    )
    server.wait_until("their ends", lambda: opened()["ended"] == 5)
    assert opened()["opened"] == 5


def test_each_branch_is_a_thread(server: Server, ours: Any, functions: Any) -> None:
    """Inside of a block, which keeps the program until it is looked at."""
    with autellix_sgl.program("tips", base_url=server.url) as p:
        functions.tip_suggestion.run(backend=ours).text()
        state = p.state()
        assert state is not None
        (run,) = {thread.partition(".")[0] for thread in state["threads"]}
        # The root says the summary; before that it may have filled the cache for its branches.
        assert state["threads"].pop(run) in (1, 2)
        assert state["threads"] == {f"{run}.1": 1, f"{run}.2": 1}
    assert p.id not in server.programs()


def test_runs_of_a_batch_in_a_block_are_threads_of_its_program(
    server: Server, ours: Any, functions: Any
) -> None:
    """Though SGLang runs them in threads that the block's context does not reach."""
    with autellix_sgl.program("batch", base_url=server.url) as p:
        functions.few_shot.run_batch(
            [{"question": f"{i}?"} for i in range(3)], backend=ours, num_threads=3
        )
        state = p.state()
    assert state is not None
    assert list(state["threads"].values()) == [1, 1, 1]


def test_a_choice_is_made_in_the_branchs_own_thread(
    server: Server, ours: Any, functions: Any
) -> None:
    """It takes several calls, with all choices in one request."""
    with autellix_sgl.program("choice", base_url=server.url) as p:
        functions.choose.run(question=LONG_TEXT, backend=ours).text()
        state = p.state()
    assert state is not None
    assert len({thread.partition(".")[0] for thread in state["threads"]}) == 1
    assert state["calls_completed"] == 4


def test_the_native_api_answers_as_documented(server: Server) -> None:
    """/generate with text, ids, a batch, a stream, a regular expression, and the others."""
    url = server.url
    plain = {"text": "The capital of France is", "sampling_params": generation(4)}
    answer = requests.post(url + "/generate", json=plain, timeout=60).json()
    assert answer["meta_info"]["completion_tokens"] == 4
    ids = {"input_ids": [5, 6, 7], "sampling_params": generation(2)}
    assert requests.post(url + "/generate", json=ids, timeout=60).json()["output_ids"]
    batch = {"text": ["Hello", "Bye"], "sampling_params": generation(2)}
    assert len(requests.post(url + "/generate", json=batch, timeout=60).json()) == 2
    with requests.post(
        url + "/generate", json={**plain, "stream": True}, stream=True, timeout=60
    ) as stream:
        events = [line.decode() for line in stream.iter_lines() if line]
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2][5:])["text"] == answer["text"]
    for path in ("/get_model_info", "/server_info", "/health", "/health_generate", "/v1/models"):
        assert requests.get(url + path, timeout=60).status_code == 200
    assert requests.post(url + "/flush_cache", timeout=60).status_code == 200
