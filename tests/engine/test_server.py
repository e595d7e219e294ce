"""One server, its APIs: programs in and out, SGLang's features beside them, bad input refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.harness import Server, generation, running_server, tiny_flags

pytestmark = pytest.mark.engine

KEY = "test-key"
PROMPT = "The quick brown fox"


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = [
        *tiny_flags(tiny_model, slots=4),
        "--served-model-name",
        "tiny",
        "--enable-metrics",
        "--program-lease-s",
        "2",
        "--program-policy",
        "atlas",
    ]
    with running_server(tmp_path_factory.mktemp("server"), flags) as running:
        yield running
        running.wait_until_idle()


def generate(server: Server, program: Any = None, tokens: int = 4, **more: Any) -> Any:
    body: dict[str, Any] = {"text": PROMPT, "sampling_params": generation(tokens), **more}
    if program is not None:
        body["program"] = program
    return server.generate(body)


def test_a_response_says_how_its_call_fared(server: Server) -> None:
    """meta_info.program carries the id, the level, service and wait, and what preemption did."""
    report = generate(server, {"id": "report", "thread": "main"})["meta_info"]["program"]
    assert report["id"] == "report"
    assert report["thread"] == "main"
    assert report["level"] == 0
    assert report["priority_ms"] == 0
    # One prefill and three decode steps at one unit each; under overlap perhaps one more.
    assert report["service_ms"] in (4, 5)
    assert report["waited_ms"] >= 0
    assert report["preemptions"] == report["promotions"] == report["recomputed_tokens"] == 0


def test_the_next_call_is_stamped_with_what_the_last_one_cost(server: Server) -> None:
    """The table is up to date before the client has its response."""
    spent = 0.0
    for _ in range(5):
        report = generate(server, {"id": "chain"}, tokens=6)["meta_info"]["program"]
        assert report["priority_ms"] == spent
        spent += report["service_ms"]
    program = server.get("/v1/programs/chain").json()
    assert program["service_ms"] == program["total_service_ms"] == spent
    assert program["calls_completed"] == 5


def test_sglangs_session_id_names_a_program(server: Server) -> None:
    """Clients that already send session_id need no change."""
    report = generate(server, session_id="session-7")["meta_info"]["program"]
    assert report["id"] == "session-7"


def test_an_unlabelled_call_is_a_program_of_its_own(server: Server) -> None:
    """Its id is the request's, and it is gone when the call is."""
    meta = generate(server)["meta_info"]
    assert meta["program"]["id"] == meta["id"]
    assert meta["id"] not in server.programs()


def test_a_batch_is_one_program_with_a_thread_for_each_prompt(server: Server) -> None:
    """Parallel prompts read the same priority; ATLAS charges the longest, not the sum."""
    outputs = generate(server, {"id": "batch"}, text=[PROMPT, "Once upon", "In the"])
    assert [o["meta_info"]["program"]["thread"] for o in outputs] == ["0", "1", "2"]
    assert {o["meta_info"]["program"]["priority_ms"] for o in outputs} == {0}
    program = server.get("/v1/programs/batch").json()
    services = [o["meta_info"]["program"]["service_ms"] for o in outputs]
    assert program["threads"] == {"0": 1, "1": 1, "2": 1}
    assert program["service_ms"] == max(services)
    assert program["total_service_ms"] == sum(services)


def test_an_unlabelled_batch_is_one_program_too(server: Server) -> None:
    """All prompts of one request belong together, and leave nothing behind."""
    outputs = generate(server, text=[PROMPT, "Once upon"])
    ids = {o["meta_info"]["program"]["id"] for o in outputs}
    assert len(ids) == 1
    assert not ids & set(server.programs())


def test_parallel_sampling_belongs_to_its_program(server: Server) -> None:
    """n > 1 makes several calls of the one program."""
    body = {"text": PROMPT, "sampling_params": {**generation(4), "n": 3}, "program": {"id": "n3"}}
    outputs = server.generate(body)
    assert len(outputs) == 3
    assert server.get("/v1/programs/n3").json()["calls_completed"] >= 3


def test_a_program_ends_when_its_last_call_says_so(server: Server) -> None:
    """end: true forgets it at once."""
    generate(server, {"id": "ending"})
    assert "ending" in server.programs()
    generate(server, {"id": "ending", "end": True})
    assert server.get("/v1/programs/ending").status_code == 404


def test_a_program_can_be_ended_and_is_then_unknown(server: Server) -> None:
    """DELETE answers with the program's last state, then 404; its id starts afresh."""
    generate(server, {"id": "de/leted"})
    ended = httpx.delete(server.url + "/v1/programs/de/leted").json()
    assert ended["ended"]
    assert ended["calls_completed"] == 1
    assert httpx.delete(server.url + "/v1/programs/de/leted").status_code == 404
    assert generate(server, {"id": "de/leted"})["meta_info"]["program"]["priority_ms"] == 0


def test_an_idle_program_lapses(server: Server) -> None:
    """After its lease (2 s here) it is gone without anybody saying so."""
    generate(server, {"id": "idle"})
    server.wait_until("the lease's end", lambda: "idle" not in server.programs())


def test_programs_are_listed_in_pages(server: Server) -> None:
    """limit and after walk the table, oldest first."""
    for i in range(5):
        generate(server, {"id": f"page-{i}"}, tokens=1)
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = server.get("/v1/programs", params={"limit": 2, **after}).json()
        seen += [program["id"] for program in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": seen[-1]}
    assert [s for s in seen if s.startswith("page-")] == [f"page-{i}" for i in range(5)]
    assert page["statistics"]["calls_completed"] > 0


def test_a_client_that_disconnects_takes_its_call_with_it(server: Server) -> None:
    """The call is aborted, leaves the table, and the slot is free again."""

    async def leave() -> None:
        async with httpx.AsyncClient(timeout=1.0) as client:
            body = {"text": PROMPT, "sampling_params": generation(3000), "program": {"id": "gone"}}
            with pytest.raises(httpx.ReadTimeout):
                await client.post(server.url + "/generate", json=body)

    asyncio.run(leave())
    statistics = server.get("/v1/programs").json()["statistics"]
    server.wait_until(
        "the aborted call to leave",
        lambda: (
            server.get("/v1/programs").json()["statistics"]["calls_aborted"]
            >= max(statistics["calls_aborted"], 1)
            and not server.state()["running"]
        ),
    )
    assert generate(server)["meta_info"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"program": "name"}, "program"),
        ({"program": {"thread": "t"}}, "program.id"),
        ({"program": {"id": 7}}, "program.id"),
        ({"program": {"id": ""}}, "program.id"),
        ({"program": {"id": "x" * 10_000}}, "program.id"),
        ({"program": {"id": "a\u0000b"}}, "program.id"),
        ({"program": {"id": "line\nbreak"}}, "program.id"),
        ({"program": {"id": "a", "thread": 3}}, "program.thread"),
        ({"program": {"id": "a", "end": "yes"}}, "program.end"),
        ({"program": {"id": "a", "ends": True}}, "program.ends"),
        ({"program": {"id": "a"}, "session_id": "b"}, "session_id"),
        ({"session_id": "s" * 300}, "session_id"),
        ({"session_id": 5}, "session_id"),
        ({"session_id": -1}, "session_id"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_program_is_refused_by_name(
    server: Server, body: dict[str, Any], field: str, path: str, stream: bool
) -> None:
    """HTTP 400 that names the field, streamed or not, and nothing is opened in the table."""
    base = {"text": PROMPT, "prompt": PROMPT, "messages": [{"role": "user", "content": "hi"}]}
    opened = server.get("/v1/programs").json()["statistics"]["opened"]
    response = server.post(path, {**base, "model": "tiny", "stream": stream, **body})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert server.get("/v1/programs").json()["statistics"]["opened"] == opened


@pytest.mark.parametrize(
    "content", [b"", b"[1, 2]", b"{", b'{"program": ', b'"program"', b"\xff\xfe", b"null"]
)
def test_a_body_that_is_no_object_is_left_to_sglang_to_refuse(
    server: Server, content: bytes
) -> None:
    """It answers 4xx as it does without us, and keeps serving."""
    response = httpx.post(server.url + "/generate", content=content, timeout=30)
    assert 400 <= response.status_code < 500
    assert generate(server)["meta_info"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    "parameters", [{"max_new_tokens": -1}, {"temperature": -2.0}, {"max_new_tokens": "many"}]
)
def test_bad_sampling_parameters_open_no_call(server: Server, parameters: dict[str, Any]) -> None:
    """A call that SGLang refuses is not left in the table."""
    body = {"text": PROMPT, "sampling_params": parameters, "program": {"id": "refused"}}
    assert server.post("/generate", body).status_code >= 400
    programs = server.programs()
    assert "refused" not in programs or not programs["refused"]["active_calls"]


def test_a_prompt_longer_than_the_context_is_refused_and_forgotten(server: Server) -> None:
    """The error is SGLang's; the table keeps no call."""
    body = {
        "input_ids": [200] * 5000,
        "sampling_params": generation(4),
        "program": {"id": "too-long"},
    }
    assert server.post("/generate", body).status_code == 400
    programs = server.programs()
    assert "too-long" not in programs or not programs["too-long"]["active_calls"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/programs/unknown", 404),
        ("/v1/programs/" + "x" * 300, 400),
        ("/v1/programs/a%00b", 400),
        ("/v1/programs?limit=0", 400),
        ("/v1/programs?limit=many", 400),
        ("/v1/programs?after=unknown", 404),
    ],
)
def test_bad_program_lookups_are_refused(server: Server, path: str, status: int) -> None:
    """Unknown: 404; malformed: 400."""
    assert server.get(path).status_code == status


def test_chat_completions_and_completions_carry_programs(server: Server) -> None:
    """The OpenAI endpoints take the same field."""
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    completion = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4}
    for path, body in (("/v1/chat/completions", chat), ("/v1/completions", completion)):
        response = server.post(path, {**body, "program": {"id": "openai"}, "ignore_eos": True})
        assert response.status_code == 200, response.text
    assert server.get("/v1/programs/openai").json()["calls_completed"] == 2


def test_a_chat_stream_arrives_whole(server: Server) -> None:
    """Server-sent events end with [DONE], and the program is charged."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 8,
        "ignore_eos": True,
        "stream": True,
        "program": {"id": "sse"},
    }
    with httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=60) as r:
        lines = [line for line in r.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert server.get("/v1/programs/sse").json()["calls_completed"] == 1


def test_anthropic_messages_and_openai_responses_work(server: Server) -> None:
    """Both endpoints answer, each as a call of the program it names."""
    messages = {
        "model": "tiny",
        "max_tokens": 4,
        "messages": [{"role": "user", "content": "hi"}],
        "program": {"id": "anthropic"},
    }
    responses = {"model": "tiny", "input": "hi", "max_output_tokens": 8, "program": {"id": "resp"}}
    assert server.post("/v1/messages", messages).status_code == 200
    assert server.post("/v1/responses", responses).status_code == 200
    programs = server.programs()
    assert programs["anthropic"]["calls_completed"] == 1
    assert programs["resp"]["calls_completed"] == 1


def test_log_probabilities_come_with_every_token(server: Server) -> None:
    """Output tokens, and prompt tokens when asked for."""
    meta = generate(server, {"id": "lp"}, 6, return_logprob=True, logprob_start_len=0)["meta_info"]
    assert len(meta["output_token_logprobs"]) == 6
    assert len(meta["input_token_logprobs"]) == meta["prompt_tokens"]


def test_structured_output_keeps_to_its_grammar(server: Server) -> None:
    """xgrammar constrains a call of a program as any other; it waits for its grammar, then runs."""
    patterns = [f"{digit}[0-9]{{3}}-[a-f]{{2}}" for digit in range(8)]
    bodies = [
        {
            "text": PROMPT,
            "sampling_params": {"max_new_tokens": 64, "regex": pattern},
            "program": {"id": "grammar"},
        }
        for pattern in patterns
    ]
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(server.generate, bodies))
    for pattern, output in zip(patterns, outputs, strict=True):
        assert re.fullmatch(pattern, output["text"])
    assert server.get("/v1/programs/grammar").json()["calls_completed"] == 8


def test_duplicate_request_ids_are_refused_without_harm(server: Server) -> None:
    """SGLang's 400; the first call goes on and the table keeps one."""
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(generate, server, {"id": "dup"}, 300, rid="same")
        server.wait_until("the first call", lambda: "dup" in server.programs())
        body = {"text": PROMPT, "sampling_params": generation(2), "rid": "same"}
        assert server.post("/generate", body).status_code == 400
        assert first.result()["meta_info"]["completion_tokens"] == 300


def test_health_checks_are_no_programs(server: Server) -> None:
    """A probe every few seconds must not fill the table."""
    opened = server.get("/v1/programs").json()["statistics"]["opened"]
    assert server.get("/health_generate").status_code == 200
    assert server.get("/v1/programs").json()["statistics"]["opened"] == opened


def test_the_server_reports_what_is_in_effect(server: Server) -> None:
    """Policy, cost model and the patches of the scheduler process, for doctor."""
    state = server.state()
    assert state["policy"] == "atlas"
    assert state["cost_model"]["base_ms"] == 1.0
    assert state["processes"][0]["role"] == "scheduler"
    assert "scheduler_class" in state["processes"][0]["patches"]


def test_the_cost_model_can_be_replaced_on_a_running_server(server: Server) -> None:
    """One control message reaches the scheduler; SGLang's own settings still work beside it."""
    change = {"server_args": {"program_cost_base_ms": 2.5, "program_cost_per_prefill_token_ms": 0}}
    assert server.post("/set_internal_state", change).status_code == 200
    assert server.state()["cost_model"]["base_ms"] == 2.5
    restore = {"server_args": {"program_cost_base_ms": 1.0}}
    assert server.post("/set_internal_state", restore).status_code == 200
    assert server.state()["cost_model"]["base_ms"] == 1.0


def test_programs_are_guarded_by_the_api_key(tiny_model: Path, tmp_path: Path) -> None:
    """Without the key neither a call nor a look at the table is answered."""
    flags = [*tiny_flags(tiny_model, slots=2), "--api-key", KEY]
    with running_server(tmp_path, flags) as guarded:
        assert guarded.get("/v1/programs").status_code == 401
        assert httpx.delete(guarded.url + "/v1/programs/x").status_code == 401
        body = {"text": PROMPT, "sampling_params": generation(2), "program": {"id": "keyed"}}
        assert guarded.post("/generate", body).status_code == 401
        headers = {"Authorization": f"Bearer {KEY}"}
        assert guarded.post("/generate", body, headers=headers).status_code == 200
        listed = guarded.get("/v1/programs", headers=headers).json()
        assert [program["id"] for program in listed["data"]] == ["keyed"]
