"""One server and what agents send it: every row of the table, every endpoint, and the way back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.agents import REQUESTS, AgentRequest
from tests.engine.harness import Server, generation, running_server, tiny_flags

pytestmark = pytest.mark.engine

PROMPT = "The quick brown fox"
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
ENDPOINTS: dict[str, dict[str, Any]] = {
    "/generate": {"text": PROMPT, "sampling_params": generation(4)},
    "/v1/completions": {"model": "tiny", "prompt": PROMPT, "max_tokens": 4},
    "/v1/chat/completions": {"model": "tiny", **CHAT},
    "/v1/responses": {"model": "tiny", "input": "hi", "max_output_tokens": 4},
    "/v1/messages": {"model": "tiny", **CHAT},
}
# Its first event is sent before the call is.
TELLS_AT_ONCE = "/v1/responses"


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = [
        *tiny_flags(tiny_model, slots=4),
        "--served-model-name",
        "tiny",
        "--enable-response-store",
        "--program-first-quantum-ms",
        "50",
    ]
    with running_server(tmp_path_factory.mktemp("server"), flags) as running:
        yield running
        running.wait_until_idle()


def call(server: Server, path: str = "/generate", **more: Any) -> httpx.Response:
    """A short call to an endpoint; keywords are body fields, but for *headers*."""
    headers = more.pop("headers", {})
    response = server.post(path, {**ENDPOINTS[path], **more}, headers=headers)
    assert response.status_code == 200, response.text
    return response


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.row)
def test_what_an_agent_sends_makes_its_calls_one_program(
    server: Server, request_: AgentRequest
) -> None:
    """Two calls as the row's agent makes them: the right program, source and thread."""
    named = request_.identity
    program = named.parent or str(named.program)
    child = [str(named.program)] if named.parent else []
    thread = ".".join([*child, *([named.thread] if named.thread else [])])
    for _ in range(2):
        answer = call(server, headers=dict(request_.headers), **request_.body)
        assert answer.headers["x-program-id"] == program
        report = answer.json()["meta_info"]["program"]
        assert (report["id"], report["thread"]) == (program, thread)
        listed = server.programs().get(program)
        assert (listed is None) == (named.end and not named.parent)
        if listed is not None:
            assert listed["source"] == request_.row
    httpx.delete(f"{server.url}/v1/programs/{program}")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_endpoint_knows_the_program_and_heads_its_response(
    server: Server, path: str, stream: bool
) -> None:
    """A header alone will do; level and wait come with the first token, if that comes first."""
    body = {**ENDPOINTS[path], "stream": stream}
    headers = {"x-program-id": f"via{path}", "x-program-thread": "t"}
    with httpx.stream("POST", server.url + path, json=body, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        assert answer.headers["x-program-id"] == f"via{path}"
        if not (stream and path == TELLS_AT_ONCE):
            assert answer.headers["x-program-level"] == "0"
            assert float(answer.headers["x-program-waited-ms"]) >= 0
        answer.read()
    program = server.get(f"/v1/programs/via{path}").json()
    assert program["threads"]["t"] >= 1


def test_a_stream_says_how_long_it_waited_before_its_first_token(server: Server) -> None:
    """Known at the first byte, because the first token is what is sent with it."""
    veteran = {"id": "veteran"}
    call(server, sampling_params=generation(400), program=veteran)
    blockers = [{"text": PROMPT, "sampling_params": generation(400)} for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(server.generate, body) for body in blockers]
        server.wait_until("the blockers", lambda: server.state()["running"] == 4)
        late = {**ENDPOINTS["/generate"], "stream": True, "program": veteran}
        with httpx.stream("POST", server.url + "/generate", json=late, timeout=60) as answer:
            waited_ms = float(answer.headers["x-program-waited-ms"])
            answer.read()
        for blocker in running:
            blocker.result()
    assert waited_ms > 0


def test_headers_of_several_calls_say_the_worst(server: Server) -> None:
    """One prompt uses up its quantum and goes down a level; the other does not."""
    prompts = [generation(200), generation(2)]
    answer = call(server, text=[PROMPT, "Once"], sampling_params=prompts)
    levels = [output["meta_info"]["program"]["level"] for output in answer.json()]
    assert min(levels) == 0
    assert int(answer.headers["x-program-level"]) == max(levels) > 0


def test_a_request_that_names_nothing_is_headed_with_its_own_program(server: Server) -> None:
    """The id of the call, streamed or not."""
    answer = call(server)
    assert answer.headers["x-program-id"] == answer.json()["meta_info"]["id"]
    body = {**ENDPOINTS["/generate"], "stream": True}
    with httpx.stream("POST", server.url + "/generate", json=body, timeout=60) as streamed:
        first, *_ = [line for line in streamed.iter_lines() if line]
        event = json.loads(first.removeprefix("data: "))
        assert streamed.headers["x-program-id"] == event["meta_info"]["id"]


def test_an_id_may_be_any_text(server: Server) -> None:
    """Headers are UTF-8, in both directions."""
    answer = call(server, headers={"x-program-id": "прогон-7".encode()})
    assert answer.headers["x-program-id"] == "прогон-7"
    assert server.get("/v1/programs/прогон-7").json()["calls_completed"] == 1


def test_the_whole_family_of_a_session_is_one_program(server: Server) -> None:
    """A child, its child, and the child again without its parent."""
    call(server, headers={"x-session-id": "root"})
    call(server, headers={"x-session-id": "child", "x-parent-session-id": "root"})
    call(server, headers={"x-session-id": "grandchild", "x-parent-session-id": "child"})
    answer = call(server, headers={"x-session-id": "child"})
    assert answer.headers["x-program-id"] == "root"
    program = server.get("/v1/programs/root").json()
    assert program["threads"] == {"": 1, "grandchild": 1, "child": 2}
    assert not {"child", "grandchild"} & set(server.programs())


def test_a_conversation_by_response_ids_is_one_program(server: Server) -> None:
    """The first response opens it; naming the last one is enough to join."""
    first = call(server, "/v1/responses").json()
    second = call(server, "/v1/responses", previous_response_id=first["id"]).json()
    third = call(server, "/v1/responses", previous_response_id=second["id"])
    assert third.headers["x-program-id"] == first["id"]
    program = server.get(f"/v1/programs/{first['id']}").json()
    assert program["calls_completed"] == 3
    assert not program["transient"]
    unkept = call(server, "/v1/responses", store=False)
    assert unkept.headers["x-program-id"] not in server.programs()


def test_the_end_user_is_shown_beside_the_program(server: Server) -> None:
    """And two users' calls in one program are still one program."""
    for user in ("alice", "bob"):
        call(server, "/v1/chat/completions", user=user, program={"id": "shared"})
    program = server.get("/v1/programs/shared").json()
    assert (program["user"], program["calls_completed"]) == ("bob", 2)


def test_values_that_were_ignored_are_counted(server: Server) -> None:
    """A header that cannot be an id costs the client nothing."""
    before = server.get("/v1/programs").json()
    call(server, headers={"x-session-affinity": "x" * 300})
    after = server.get("/v1/programs").json()
    ignored = after["ignored"]["x-session-affinity"]
    assert ignored == before["ignored"].get("x-session-affinity", 0) + 1
    assert after["identified"]["none"] == before["identified"].get("none", 0) + 1


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"x-program-id": "a" * 257}, "x-program-id"),
        ({"x-program-thread": "t"}, "x-program-id"),
        ({"x-program-id": "a", "x-program-end": "maybe"}, "x-program-end"),
    ],
)
@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_bad_header_is_refused_by_name_at_every_endpoint(
    server: Server, path: str, headers: dict[str, str], field: str
) -> None:
    """HTTP 400, before anything is opened."""
    opened = server.get("/v1/programs").json()["statistics"]["opened"]
    response = server.post(path, ENDPOINTS[path], headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert server.get("/v1/programs").json()["statistics"]["opened"] == opened


def test_aborting_a_program_aborts_all_of_its_calls_and_no_others(server: Server) -> None:
    """Waiting and running ones; the program stays, and is charged for what they used."""
    body = {"text": PROMPT, "sampling_params": generation(3000)}

    async def abort_among_others() -> tuple[list[Any], Any, Any]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            mine = [
                asyncio.create_task(
                    client.post("/generate", json={**body, "program": {"id": "ab/c"}})
                )
                for _ in range(6)
            ]
            other = asyncio.create_task(
                client.post("/generate", json={**body, "sampling_params": generation(40)})
            )
            while len((await client.get("/v1/programs/ab/c")).json().get("active_calls", ())) < 6:
                await asyncio.sleep(0.02)
            aborted = await client.post("/v1/programs/ab/c/abort")
            return [(await task).json() for task in mine], aborted.json(), (await other).json()

    mine, aborted, other = asyncio.run(abort_among_others())
    assert len(aborted["aborted"]) == 6
    assert aborted["program"]["id"] == "ab/c"
    assert {out["meta_info"]["finish_reason"]["type"] for out in mine} == {"abort"}
    assert other["meta_info"]["completion_tokens"] == 40
    program = server.get("/v1/programs/ab/c").json()
    assert (program["calls_aborted"], program["active_calls"]) == (6, [])
    assert server.post("/v1/programs/ab/c/abort", None).json()["aborted"] == []
    assert server.post("/v1/programs/unknown/abort", None).status_code == 404


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "many", "", "1.5", "٣"])
def test_a_bad_limit_is_named_in_one_line(server: Server, limit: str) -> None:
    """And nothing of the server's inside is."""
    response = server.get("/v1/programs", params={"limit": limit})
    assert response.status_code == 400
    message = response.json()["message"]
    assert message == f"limit: must be a whole number from 1 to 1000, got {limit!r}"


def test_the_openapi_schema_describes_the_routes(server: Server) -> None:
    """Every route with its parameters, and every field of a program."""
    schema = server.get("/openapi.json").json()
    paths = schema["paths"]
    assert list(paths["/v1/programs"]) == ["get"]
    assert sorted(paths["/v1/programs/{program_id}"]) == ["delete", "get"]
    assert list(paths["/v1/programs/{program_id}/abort"]) == ["post"]
    limit = next(p for p in paths["/v1/programs"]["get"]["parameters"] if p["name"] == "limit")
    assert limit["schema"]["type"] == "integer"
    assert limit["schema"]["maximum"] == 1000
    call(server, program={"id": "shown"})
    shown = server.get("/v1/programs/shown").json()
    assert set(shown) == set(schema["components"]["schemas"]["ProgramModel"]["properties"])
