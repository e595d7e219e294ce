"""The frontend and real clients against a running server: N calls are one program, and it ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import requests

import autellix_sgl
from tests.engine.harness import Server, generation, running_server, tiny_flags

pytestmark = pytest.mark.engine

CHAT: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
GENERATE = {"text": "The quick brown fox", "sampling_params": generation(4)}


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = [
        *tiny_flags(tiny_model, slots=4),
        "--served-model-name",
        "tiny",
        "--program-lease-s",
        "4",
    ]
    with running_server(tmp_path_factory.mktemp("server"), flags) as running:
        yield running
        running.wait_until_idle()


def threads(p: autellix_sgl.Program) -> dict[str, int]:
    state = p.state()
    assert state is not None
    found: dict[str, int] = state["threads"]
    return found


def test_the_openai_client_makes_one_program(server: Server) -> None:
    """Chat, completions and responses, streamed and whole; gone at the end of the block."""
    with autellix_sgl.program("openai", base_url=server.url) as p:
        client = p.openai()
        client.chat.completions.create(**CHAT)
        for _ in client.chat.completions.create(**CHAT, stream=True):
            pass
        client.completions.create(model="tiny", prompt="hi", max_tokens=4)
        with p.thread("responses"):
            client.responses.create(model="tiny", input="hi", max_output_tokens=4)
            for _ in client.responses.create(
                model="tiny", input="hi", max_output_tokens=4, stream=True
            ):
                pass
        assert threads(p) == {"": 3, "responses": 2}
        raw = client.chat.completions.with_raw_response.create(**CHAT)
        assert raw.headers["x-program-id"] == p.id
    assert p.id not in server.programs()


def test_asynchronous_openai_calls_are_threads(server: Server) -> None:
    """Started together, each in its own."""

    async def run() -> dict[str, int]:
        async with (
            autellix_sgl.program("async", base_url=server.url) as p,
            p.async_openai() as client,
        ):

            async def branch(name: str) -> None:
                async with p.thread(name):
                    for _ in range(2):
                        await client.chat.completions.create(**CHAT)

            await asyncio.gather(*(branch(name) for name in "abc"))
            return await asyncio.to_thread(threads, p)

    assert asyncio.run(run()) == {"a": 2, "b": 2, "c": 2}
    assert not [program for program in server.programs() if program.startswith("async-")]


def test_the_anthropic_client_makes_one_program(server: Server) -> None:
    """Whole, streamed and asynchronous; the server is found without being named."""

    async def run(p: autellix_sgl.Program) -> None:
        async with p.async_anthropic(base_url=server.url, api_key="unused") as client:
            await client.messages.create(**CHAT)

    with autellix_sgl.program("anthropic") as p:
        client = autellix_sgl.wrap(anthropic.Anthropic(base_url=server.url, api_key="unused"))
        client.messages.create(**CHAT)
        with p.thread("stream"), client.messages.stream(**CHAT) as stream:
            stream.get_final_message()
        asyncio.run(run(p))
        assert threads(p) == {"": 2, "stream": 1}
    assert p.id not in server.programs()


def test_plain_http_clients_make_one_program(server: Server) -> None:
    """httpx and requests, in threads as well."""
    with autellix_sgl.program("plain", base_url=server.url) as p:
        with p.httpx() as client, autellix_sgl.Executor(3) as pool:
            list(pool.map(lambda _: client.post("/generate", json=GENERATE), range(3)))
        with p.requests() as session, p.thread("requests"):
            session.post(server.url + "/generate", json=GENERATE)
        with autellix_sgl.wrap(requests.Session()) as session, ThreadPoolExecutor(1) as bare:
            bare.submit(session.post, server.url + "/generate", json=GENERATE).result()
        assert threads(p) == {"": 4, "requests": 1}
    assert p.id not in server.programs()


def test_sub_agents_are_threads_of_the_outermost_program(server: Server) -> None:
    """A program inside of a program, and a forked process inside of that."""
    with autellix_sgl.program("outer", base_url=server.url) as outer:
        with autellix_sgl.program(id="helper", base_url=server.url) as helper:
            helper.httpx().post("/generate", json=GENERATE)
            with helper.thread("forked"):
                child = os.fork()
                if child == 0:
                    helper.httpx().post("/generate", json=GENERATE)
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
        outer.httpx().post("/generate", json=GENERATE)
        assert threads(outer) == {"helper": 1, "helper.forked": 1, "": 1}
        assert "helper" not in server.programs()
    assert outer.id not in server.programs()


def test_a_run_that_fails_leaves_no_call_behind(server: Server) -> None:
    """Its call in another thread is aborted, and the program is gone."""
    long = {**GENERATE, "sampling_params": generation(3000)}
    p = autellix_sgl.program("failing", base_url=server.url)
    client = p.httpx(timeout=60)

    def fail() -> None:
        with p:
            server.wait_until("the call", lambda: (p.state() or {}).get("active_calls"))
            raise ValueError("gone wrong")

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.post, "/generate", json=long)
        with pytest.raises(ValueError, match="gone wrong"):
            fail()
        assert call.result().json()["meta_info"]["finish_reason"]["type"] == "abort"
    server.wait_until("the program's end", lambda: p.id not in server.programs())


def test_a_client_that_just_goes_away_is_forgotten_after_the_lease(server: Server) -> None:
    """A stock client with a header of its own, which says nothing at the end."""
    session = {"x-session-affinity": "ses_lapse"}
    with openai.OpenAI(
        base_url=server.url + "/v1", api_key="unused", default_headers=session
    ) as client:
        for _ in range(3):
            client.chat.completions.create(**CHAT)
    assert server.programs()["ses_lapse"]["calls_completed"] == 3
    server.wait_until("the lease's end", lambda: "ses_lapse" not in server.programs())


def test_calls_outside_of_every_program_are_strangers(server: Server) -> None:
    """A wrapped client says nothing there, as a client that is not wrapped."""
    client = autellix_sgl.wrap(httpx.Client(base_url=server.url))
    meta = client.post("/generate", json=GENERATE).json()["meta_info"]
    assert meta["program"]["id"] == meta["id"]
