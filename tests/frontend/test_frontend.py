"""Programs in agent code: where code runs, what its clients send, and who is told of the end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
import requests
from requests.adapters import BaseAdapter

import autellix_sgl
from autellix_sgl.core import Hints
from autellix_sgl.errors import InvalidProgram
from autellix_sgl.frontend import place as frontend_place
from autellix_sgl.frontend import programs
from autellix_sgl.frontend.place import Place, current
from autellix_sgl.frontend.remote import ENDPOINTS, Server
from autellix_sgl.runtime.http.identity_middleware import GENERATION_PATHS
from autellix_sgl.runtime.identity import IdentityReader
from autellix_sgl.runtime.identity.sources import (
    MAX_EXPECTED,
    MAX_ID_CHARACTERS,
    OWN,
    SERVICE_FIELDS,
    SOURCES,
)

URL = "http://127.0.0.1:9"
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    ],
}
MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
ASK: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Wire:
    """Transports that keep what they were given to send."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def _keep(self, request: Any) -> dict[str, Any]:
        self.sent.append(request.headers)
        return CHAT if "chat" in request.url.path else MESSAGE

    def httpx(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=self._keep(request))

    def httpx2(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=self._keep(request))

    def programs(self) -> list[str | None]:
        return [headers.get("x-program-id") for headers in self.sent]

    def threads(self) -> list[str | None]:
        return [headers.get("x-program-thread") for headers in self.sent]


@pytest.fixture
def wire() -> Wire:
    return Wire()


def client_of(wire: Wire) -> httpx.Client:
    return autellix_sgl.wrap(httpx.Client(transport=httpx.MockTransport(wire.httpx)))


# -- where code runs ----------------------------------------------------------------------------


def test_a_run_has_an_id_of_its_own() -> None:
    """The name and a random part, or what it is told."""
    one, two = autellix_sgl.program("search"), autellix_sgl.program("search")
    assert one.id.startswith("search-")
    assert one.id != two.id
    assert autellix_sgl.program(id="run-17").id == "run-17"
    for bad in ("", "x" * 257, "a\nb"):
        with pytest.raises(InvalidProgram):
            autellix_sgl.program(id=bad)


def test_what_a_program_expects_is_the_outermost_ones() -> None:
    """And each of its calls says so; what cannot be expected is refused."""
    expected = {"x-program-expected-calls": "12", "x-program-expected-tokens": "3000"}
    with autellix_sgl.program(expected_calls=12, expected_tokens=3000) as p:
        with p.thread("t"):
            assert expected.items() <= p.headers().items()
        child = autellix_sgl.program(expected_calls=99)
        assert expected.items() <= child.headers().items()
    for bad in (0, -1, 1.5, True, "7", 10**9 + 1):
        with pytest.raises(InvalidProgram, match="expected_tokens"):
            autellix_sgl.program(expected_tokens=bad)  # type: ignore[arg-type]


def test_code_in_the_block_is_in_the_program() -> None:
    """And code after it is not, however the block ends."""
    with autellix_sgl.program(id="p") as p:
        assert current() == Place("p")
        with p.thread("t"):
            assert current() == Place("p", "t")
        with p.thread(), p.thread("named"):
            assert current() == Place("p", "named")
        assert p.thread().place == Place("p", "2")
    assert current() is None
    with pytest.raises(KeyError), autellix_sgl.program(id="p"):
        raise KeyError
    assert current() is None


def test_a_block_cannot_be_entered_twice() -> None:
    """The inner exit would end the outer block's program."""
    with autellix_sgl.program() as p, pytest.raises(RuntimeError, match="entered already"):
        p.__enter__()


def test_a_program_inside_of_another_is_its_child() -> None:
    """What it sends says so."""
    with autellix_sgl.program(id="outer"), autellix_sgl.program(id="inner") as p:
        with p.thread("t"):
            assert current() == Place("inner", "t", "outer", "outer")
        assert p.headers() == {
            "x-program-id": "inner",
            "x-program-parent": "outer",
            "x-smg-routing-key": "outer",
        }
    assert Place("a", "t", "b").as_field() == {"id": "a", "thread": "t", "parent": "b"}


def test_asyncio_tasks_belong_to_where_they_were_started() -> None:
    """Each in the thread it has entered."""

    async def branch(p: autellix_sgl.Program, name: str) -> Place | None:
        async with p.thread(name):
            await asyncio.sleep(0)
            return current()

    async def run() -> list[Place | None]:
        async with autellix_sgl.program(id="p") as p:
            return await asyncio.gather(*(branch(p, name) for name in "abc"))

    assert asyncio.run(run()) == [Place("p", name) for name in "abc"]


def test_threads_are_taken_along_by_carry_and_by_the_executor() -> None:
    """The same function may run several times at once."""
    places: list[Place | None] = []
    with autellix_sgl.program(id="p") as p:
        threads = []
        for name in "ab":
            with p.thread(name):
                threads.append(
                    threading.Thread(target=autellix_sgl.carry(lambda: places.append(current())))
                )
        for thread in threads:
            thread.start()
            thread.join()
        with autellix_sgl.Executor(2) as pool, p.thread("c"):
            barrier = threading.Barrier(2)

            def meet(_: int) -> Place | None:
                barrier.wait(10)
                return current()

            places += pool.map(meet, range(2))
    assert places == [Place("p", name) for name in "abcc"]


def test_a_forked_process_belongs_to_the_program_and_does_not_end_it(told: Told) -> None:
    """The run goes on in the process that opened it."""
    read, write = os.pipe()
    with autellix_sgl.program(id="p", base_url=told.url) as p, p.thread("t"):
        child = os.fork()
        if child == 0:
            p.end()
            os.write(write, repr(current()).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert told.requests == []
    assert os.read(read, 100) == repr(Place("p", "t")).encode()
    assert told.requests == ["DELETE /v1/programs/p"]


# -- what clients send --------------------------------------------------------------------------


def test_an_httpx_client_says_which_program_it_is_in(wire: Wire) -> None:
    """Whichever that is at the time of the call; outside of all it says nothing."""
    client = client_of(wire)
    client.get(URL)
    for name in ("p", "läuft"):
        with autellix_sgl.program(id=name) as p:
            client.get(URL)
            with p.thread("t"):
                client.get(URL, headers={"x-other": "1"})
    client.get(URL)
    raw = [dict(headers.raw).get(b"x-program-id") for headers in wire.sent]
    assert raw == [None, b"p", b"p", "läuft".encode(), "läuft".encode(), None]
    assert wire.threads() == [None, None, "t", None, "t", None]
    assert wire.sent[2]["x-other"] == "1"


def test_all_of_a_run_goes_to_one_server_behind_a_gateway(wire: Wire) -> None:
    """The routing key is that of the outermost program, whatever was opened inside of it."""
    client = client_of(wire)
    with autellix_sgl.program(id="a") as a, a.thread("t"):
        client.get(URL)
        with autellix_sgl.program(id="b"), autellix_sgl.program(id="c"):
            client.get(URL)
    assert [headers["x-smg-routing-key"] for headers in wire.sent] == ["a", "a"]
    behind = {"x-smg-routing-key": "a"}
    raw = [(name.encode(), value.encode()) for name, value in behind.items()]
    assert IdentityReader().read(raw, b"{}").identity.program == "a"


def test_service_is_carried_to_the_next_server_at_the_same_address() -> None:
    """A run tells again what it was told last, its children included; not to other addresses."""
    told = iter(["5.000", "80.500", "80.500"])
    sent: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("x-request-id-program-service-ms"))
        if request.url.path != "/generate" or request.url.host != "gateway":
            return httpx.Response(200)
        headers = {"x-program-id": "a", "x-program-service-ms": next(told)}
        return httpx.Response(200, headers=headers)

    client = autellix_sgl.wrap(httpx.Client(transport=httpx.MockTransport(answer)))
    with autellix_sgl.program(id="a") as a:
        client.post("http://gateway/generate")
        with autellix_sgl.program(id="b"):
            client.post("http://gateway/generate")
        client.post("http://gateway/generate")
        client.post("http://elsewhere/generate")
        client.get("http://gateway/v1/models")
        a.ended = True  # nobody is there to be told of the end
    assert sent == [None, "5.000", "80.500", None, None]


def test_what_a_request_says_itself_is_left_alone(wire: Wire) -> None:
    """An id that the caller has set counts."""
    with autellix_sgl.program():
        client_of(wire).get(URL, headers={"x-program-id": "mine"})
    assert wire.programs() == ["mine"]


def test_hooks_of_the_user_stay_and_ours_are_there_once(wire: Wire) -> None:
    """Wrapping twice changes nothing."""
    seen: list[str] = []
    hooks = {"request": [lambda request: seen.append("request")]}
    transport = httpx.MockTransport(wire.httpx)
    client = httpx.Client(transport=transport, event_hooks=hooks)
    assert autellix_sgl.wrap(autellix_sgl.wrap(client)) is client
    assert [len(each) for each in client.event_hooks.values()] == [2, 1]
    with autellix_sgl.program(id="p"):
        client.get(URL)
    assert (seen, wire.programs()) == (["request"], ["p"])


def test_a_client_made_in_a_program_is_its_in_threads_that_know_of_none(wire: Wire) -> None:
    """Until the program ends: then its calls are nobody's."""
    with autellix_sgl.program(id="p") as p:
        clients = [client_of(wire), p.httpx(transport=httpx.MockTransport(wire.httpx))]
        for client in clients:
            thread = threading.Thread(target=client.get, args=[URL])
            thread.start()
            thread.join()
    for client in clients:
        client.get(URL)
    assert wire.programs() == ["p", "p", None, None]


def test_openai_and_anthropic_clients_are_labelled(wire: Wire) -> None:
    """Made by the program or wrapped, synchronous or not; they need no key where none is asked."""
    old, new = httpx.MockTransport(wire.httpx), httpx2.MockTransport(wire.httpx2)

    async def asynchronous(p: autellix_sgl.Program) -> None:
        async with p.async_openai(http_client=httpx.AsyncClient(transport=old)) as client:
            await client.chat.completions.create(**ASK)
        async with p.async_anthropic(http_client=httpx2.AsyncClient(transport=new)) as other:
            await other.messages.create(**ASK, max_tokens=1)
        wrapped = autellix_sgl.wrap(
            openai.AsyncOpenAI(
                base_url=URL, api_key="k", http_client=httpx.AsyncClient(transport=old)
            )
        )
        await wrapped.chat.completions.create(**ASK)

    with autellix_sgl.program(id="p", base_url=URL + "/v1") as p:
        p.openai(http_client=httpx.Client(transport=old)).chat.completions.create(**ASK)
        other = p.anthropic(http_client=httpx2.Client(transport=new))
        other.messages.create(**ASK, max_tokens=1)
        with p.thread("t"):
            wrapped = anthropic.Anthropic(
                base_url=URL, api_key="k", http_client=httpx2.Client(transport=new)
            )
            autellix_sgl.wrap(wrapped).messages.create(**ASK, max_tokens=1)
        asyncio.run(asynchronous(p))
    assert wire.programs() == ["p"] * 6
    assert wire.threads() == [None, None, "t", None, None, None]


class KeepingAdapter(BaseAdapter):
    """A requests transport that keeps what it was given to send."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Any] = []
        self.closed = False

    def send(self, request: Any, *_: Any, **__: Any) -> requests.Response:
        self.sent.append(dict(request.headers))
        response = requests.Response()
        response.status_code = 200
        response.url, response.request = request.url, request
        return response

    def close(self) -> None:
        self.closed = True


def test_a_requests_session_is_labelled_through_its_adapters() -> None:
    """Also one that the user has mounted, and wrapping twice adds the headers once."""
    adapter = KeepingAdapter()
    session = requests.Session()
    session.mount(URL, adapter)
    autellix_sgl.wrap(autellix_sgl.wrap(session))
    with autellix_sgl.program(id="läuft"):
        session.get(URL)
    session.get(URL)
    assert [headers.get("x-program-id") for headers in adapter.sent] == ["läuft".encode(), None]
    session.close()
    assert adapter.closed


def test_what_is_no_client_is_refused() -> None:
    """With what to do instead."""
    with pytest.raises(TypeError, match=r"Program\.headers"):
        autellix_sgl.wrap(object())


# -- who is told of the end ---------------------------------------------------------------------


class Told:
    """A server that keeps what it was asked for, and answers generations as ours does."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.keys: list[str | None] = []
        self.status = 200
        self.names_programs = True
        told = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                if "/v1/programs/" in self.path:
                    told.requests.append(f"{self.command} {self.path}")
                    told.keys.append(self.headers.get("authorization"))
                    self.send_response(told.status)
                else:
                    self.send_response(200)
                    if told.names_programs:
                        self.send_header("x-program-id", self.headers["x-program-id"] or "own")
                body = json.dumps(CHAT).encode()
                self.send_header("content-length", str(len(body)))
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = _answer  # noqa: N815 (http.server's names)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def told() -> Iterator[Told]:
    server = Told()
    yield server
    server.stop()


def test_a_server_that_knows_programs_is_told_of_the_end(told: Told) -> None:
    """It is one whose answers are headed with a program; with the key that the calls had."""
    with autellix_sgl.program(id="a/b") as p:
        with p.openai(base_url=told.url + "/v1", api_key="key-1") as client:
            for _ in range(2):
                client.chat.completions.create(**ASK)
        assert told.requests == []
    assert told.requests == ["DELETE /v1/programs/a%2Fb"]
    assert told.keys == ["Bearer key-1"]


def test_a_server_that_does_not_know_programs_is_left_alone(told: Told) -> None:
    """Some other service, or one that the program made no generation at."""
    told.names_programs = False
    with autellix_sgl.program() as p:
        p.httpx().post(told.url + "/v1/chat/completions", json=ASK)
    told.names_programs = True
    with autellix_sgl.program() as p:
        p.httpx().get(told.url + "/search")
    assert told.requests == []


def test_a_run_that_fails_has_its_calls_aborted(told: Told) -> None:
    """Then it is ended, in an asynchronous block too."""

    async def failing() -> None:
        async with autellix_sgl.program(id="q", base_url=told.url, api_key="key-2"):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        asyncio.run(failing())
    assert told.requests == ["POST /v1/programs/q/abort", "DELETE /v1/programs/q"]
    assert told.keys == ["Bearer key-2"] * 2


def test_a_child_is_ended_with_the_outermost_program(told: Told) -> None:
    """Whose server it may have been the only one to use."""
    with autellix_sgl.program(id="outer"):
        with autellix_sgl.program(id="inner") as p:
            p.requests().post(told.url + "/generate", json={})
        assert told.requests == []
    assert told.requests == ["DELETE /v1/programs/outer"]


def test_a_server_that_cannot_be_told_costs_a_warning(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """The lease will do; a program that is gone already is no news."""
    for status, warnings in ((404, 0), (503, 1)):
        told.status = status
        caplog.clear()
        with caplog.at_level(logging.WARNING), autellix_sgl.program(base_url=told.url):
            pass
        assert len(caplog.records) == warnings
    with caplog.at_level(logging.WARNING), autellix_sgl.program(base_url=URL):
        pass
    assert "/v1/programs/program-" in caplog.text


@pytest.mark.parametrize(
    "base_url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"]
)
def test_a_servers_address_may_be_given_in_any_way(base_url: str) -> None:
    """With /v1 and a slash or without, and a proxy's prefix is kept."""
    assert Server.at(base_url, None).url == "http://h:1"
    behind = Server.behind("https://h/llm/v1/messages?beta=true", {"x-api-key": "k"})
    assert behind == Server("https://h/llm", {"x-api-key": "k"})
    assert Server.behind("https://h/llm/v1/models", {}) is None


# -- the two sides ------------------------------------------------------------------------------


def test_what_is_sent_is_what_the_server_reads() -> None:
    """The names are written down on both sides, since neither imports the other."""
    [gateway] = [source for source in SOURCES if source.name == "smg"]
    names = {field.name for field in (*OWN.fields(), *gateway.fields(), *SERVICE_FIELDS)}
    ours = {value for name, value in vars(frontend_place).items() if name.endswith("_HEADER")}
    assert ours <= names
    assert set(ENDPOINTS) == GENERATION_PATHS
    place = Place("p", "t", "q", expected_calls=12, expected_tokens=3000)
    raw = [(name.encode(), value.encode()) for name, value in place.headers().items()]
    by_header = IdentityReader().read(raw, b"{}").identity
    by_body = IdentityReader().read([], json.dumps({"program": place.as_field()}).encode()).identity
    assert by_header == by_body
    assert (by_body.program, by_body.thread, by_body.parent) == ("p", "t", "q")
    assert by_body.hints == Hints(calls=12, tokens=3000)
    limits = (programs.MAX_ID_CHARACTERS, programs.MAX_EXPECTED)
    assert limits == (MAX_ID_CHARACTERS, MAX_EXPECTED)


def test_the_frontend_needs_nothing_that_is_not_used() -> None:
    """A block without a client imports no client library, and no name of ours is missing."""
    script = (
        "import sys, autellix_sgl\n"
        "with autellix_sgl.program(): autellix_sgl.current()\n"
        "heavy = ('torch', 'sglang', 'httpx', 'openai', 'requests', 'fastapi', 'msgspec')\n"
        "print([m for m in heavy if m in sys.modules])\n"
        "lazy = ('Engine', 'RuntimeEndpoint')\n"
        "print([n for n in autellix_sgl.__all__ if n not in lazy and not hasattr(autellix_sgl, n)])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.split("\n")[:2] == ["[]", "[]"]
    assert set(autellix_sgl.__all__) <= set(dir(autellix_sgl))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        autellix_sgl.nothing  # noqa: B018
