"""One server with two tenants, who must not notice each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.engine.harness import Server, generation, running_server, tiny_flags

pytestmark = pytest.mark.engine

ADMIN = "admin-key"
KEYS = {"one": "key-1", "two": "key-2"}
PROMPT = "The quick brown fox"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Guarded(Server):
    """The server as its administrator sees it."""

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return super().get(path, **{"headers": bearer(ADMIN), **kwargs})


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("tenants")
    tenants = folder / "tenants.json"
    tenants.write_text(json.dumps(KEYS), encoding="utf-8")
    flags = [
        *tiny_flags(tiny_model, slots=4),
        "--served-model-name",
        "tiny",
        "--enable-response-store",
        "--admin-api-key",
        ADMIN,
        "--program-tenants",
        str(tenants),
    ]
    with running_server(folder, flags) as running:
        yield Guarded(running.url, running.process, running.log)


class As:
    """What one key's holder does."""

    def __init__(self, server: Server, key: str) -> None:
        self._client = httpx.Client(base_url=server.url, headers=bearer(key), timeout=120)

    def call(self, program: str | None = None, tokens: int = 4, **more: Any) -> httpx.Response:
        named = {} if program is None else {"program": {"id": program}}
        body = {"text": PROMPT, "sampling_params": generation(tokens), **named, **more}
        return self._client.post("/generate", json=body)

    def programs(self, **params: Any) -> Any:
        return self._client.get("/v1/programs", params=params).json()

    def ids(self, **params: Any) -> list[str]:
        return [program["id"] for program in self.programs(**params)["data"]]

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        return self._client.request(method, path, **kwargs)


@pytest.fixture
def one(server: Server) -> As:
    return As(server, KEYS["one"])


@pytest.fixture
def two(server: Server) -> As:
    return As(server, KEYS["two"])


@pytest.fixture
def admin(server: Server) -> As:
    return As(server, ADMIN)


def test_the_same_id_is_two_programs(one: As, two: As) -> None:
    """The second tenant's first call is not charged with the first tenant's service."""
    one.call("same", tokens=30)
    answer = two.call("same")
    assert answer.json()["meta_info"]["program"]["id"] == "same"
    assert answer.json()["meta_info"]["program"]["priority_ms"] == 0
    for tenant, name in ((one, "one"), (two, "two")):
        program = tenant.request("GET", "/v1/programs/same").json()
        assert (program["tenant"], program["calls_completed"]) == (name, 1)


def test_a_tenant_sees_its_own_programs_only(one: As, two: As) -> None:
    """In lists, by id, and in the counters."""
    one.call("secret")
    assert "secret" in one.ids()
    assert "secret" not in two.ids()
    assert two.request("GET", "/v1/programs/secret").status_code == 404
    assert two.request("GET", "/v1/programs", params={"after": "secret"}).status_code == 404
    page = two.programs()
    assert set(page["statistics"]) == {"programs"}
    assert page["identified"] is None
    for path in ("/v1/programs", "/v1/programs/secret"):
        assert two.request("GET", path, params={"tenant": "one"}).status_code == 403


def test_a_tenant_ends_and_aborts_its_own_programs_only(server: Server, one: As, two: As) -> None:
    """To anybody else they are not there."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(one.call, "running", 3000)
        server.wait_until("the call", lambda: "running" in one.ids())
        assert two.request("DELETE", "/v1/programs/running").status_code == 404
        assert two.request("POST", "/v1/programs/running/abort").status_code == 404
        for method, path in (
            ("DELETE", "/v1/programs/running"),
            ("POST", "/v1/programs/running/abort"),
        ):
            assert two.request(method, path, params={"tenant": "one"}).status_code == 403
        assert not one.request("GET", "/v1/programs/running").json()["ended"]
        assert one.request("POST", "/v1/programs/running/abort").status_code == 200
        assert running.result().json()["meta_info"]["finish_reason"]["type"] == "abort"
    assert one.request("DELETE", "/v1/programs/running").json()["ended"]


def test_a_chosen_call_id_does_not_abort_another_tenants_calls(
    server: Server, one: As, two: As
) -> None:
    """SGLang's own abort takes along every call whose id begins with the one given."""
    with ThreadPoolExecutor(2) as pool:
        victim = pool.submit(one.call, "victim", 600, rid="v-123")
        attacker = pool.submit(two.call, "attacker", 1200, rid="v")
        server.wait_until("both", lambda: "victim" in one.ids() and "attacker" in two.ids())
        two.request("POST", "/v1/programs/attacker/abort")
        assert victim.result().json()["meta_info"]["completion_tokens"] == 600
        assert attacker.result().json()["meta_info"]["finish_reason"]["type"] == "abort"


def test_a_child_belongs_to_its_own_tenants_root(one: As, two: As) -> None:
    """A parent's id is looked for among the caller's programs."""
    one.call("parent")
    headers = {"x-session-id": "kid", "x-parent-session-id": "parent"}
    answer = two.request(
        "POST",
        "/generate",
        json={"text": PROMPT, "sampling_params": generation(2)},
        headers=headers,
    )
    assert answer.headers["x-program-id"] == "parent"
    assert one.request("GET", "/v1/programs/parent").json()["threads"] == {"": 1}
    assert two.request("GET", "/v1/programs/parent").json()["threads"] == {"kid": 1}


def test_stored_responses_are_their_tenants(one: As, two: As) -> None:
    """Neither shown, nor cancelled, nor continued by another."""
    body = {"model": "tiny", "input": "hi", "max_output_tokens": 4}
    response = one.request("POST", "/v1/responses", json=body).json()["id"]
    assert one.request("GET", f"/v1/responses/{response}").status_code == 200
    assert two.request("GET", f"/v1/responses/{response}").status_code == 404
    assert two.request("POST", f"/v1/responses/{response}/cancel").status_code == 404
    continued = {**body, "previous_response_id": response}
    refused = two.request("POST", "/v1/responses", json=continued)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "previous_response_id"
    joined = one.request("POST", "/v1/responses", json=continued)
    assert joined.headers["x-program-id"] == response


def test_the_administrator_sees_each_tenant(one: As, admin: As) -> None:
    """By name; its own calls are in nobody's list."""
    one.call("seen")
    admin.call("own")
    assert "seen" in admin.ids(tenant="one")
    assert admin.ids() == ["own"]
    assert "own" not in one.ids()
    assert admin.programs()["statistics"]["calls_completed"] > 0
    ended = admin.request("DELETE", "/v1/programs/seen", params={"tenant": "one"})
    assert ended.json()["tenant"] == "one"
    assert "seen" not in one.ids()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/server_info"),
        ("GET", "/get_server_info"),
        ("POST", "/abort_request"),
        ("POST", "/flush_cache"),
        ("POST", "/set_internal_state"),
        ("POST", "/pause_generation"),
    ],
)
def test_what_concerns_all_tenants_is_the_administrators(one: As, method: str, path: str) -> None:
    """A tenant's key does not do."""
    assert one.request(method, path, json={}).status_code in (401, 403)


def test_without_a_key_nothing_is_answered(server: Server) -> None:
    """Probes are."""
    for path in ("/v1/programs", "/v1/models", "/server_info"):
        assert httpx.get(server.url + path).status_code == 401
    assert httpx.post(server.url + "/generate", json={"text": PROMPT}).status_code == 401
    assert httpx.get(server.url + "/health").status_code == 200


def test_clients_use_a_tenants_key_as_they_would_any(server: Server, one: As, two: As) -> None:
    """OpenAI's sends a bearer token, Anthropic's a header of its own."""
    chat: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    headers = {"x-program-id": "sdk"}
    with openai.OpenAI(base_url=server.url + "/v1", api_key=KEYS["one"]) as client:
        client.chat.completions.create(**chat, extra_headers=headers)
    with anthropic.Anthropic(base_url=server.url, api_key=KEYS["two"]) as other:
        other.messages.create(**chat, extra_headers=headers)
    for tenant in (one, two):
        assert tenant.request("GET", "/v1/programs/sdk").json()["calls_completed"] == 1
    with (
        openai.OpenAI(base_url=server.url + "/v1", api_key="nobody", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.chat.completions.create(**chat)
