"""``with autellix_sgl.program("name") as p:`` and what the object offers."""

from __future__ import annotations

import asyncio
import itertools
import os
import uuid
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any

from autellix_sgl.errors import InvalidProgram
from autellix_sgl.frontend import clients
from autellix_sgl.frontend.place import CURRENT, Listener, Place
from autellix_sgl.frontend.remote import Server

if TYPE_CHECKING:
    from anthropic import Anthropic, AsyncAnthropic
    from httpx import AsyncClient, Client
    from openai import AsyncOpenAI, OpenAI
    from requests import Session

MAX_ID_CHARACTERS = 256
MAX_EXPECTED = 1_000_000_000


class Program:
    """One run of an agent: the calls made inside of the ``with`` block belong together.

    Inside, every call through a client of this program, or through one that was given to
    `autellix_sgl.wrap`, carries the program's id; asyncio tasks and forked processes that start
    inside belong to it too, and threads by `autellix_sgl.carry` or `autellix_sgl.Executor`. At the
    end of the block every server that knows the program is told to forget it; when the block ends
    in an error, its calls there are aborted first.

    A program opened inside of another one is its child: the server counts its calls as a thread of
    the outermost program, and that one's end is the end of both.
    """

    def __init__(
        self,
        name: str = "program",
        *,
        id: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        expected_calls: int | None = None,
        expected_tokens: int | None = None,
    ) -> None:
        """Name a run. *name* and a random part are its id, unless *id* is the whole of it.

        *base_url* and *api_key* are the server's, with ``/v1`` or without: the clients made by
        this object then need neither, and the server learns of the end even if this process made
        no call itself. *expected_calls* and *expected_tokens*, if you know, are what the whole run
        will make and generate; a server with ``--program-policy gittins`` makes use of them. A
        child's are not asked for: the outermost program's count. Raises InvalidProgram if the id
        cannot be one, or nothing can be expected so.
        """
        self.id = _checked(id if id is not None else f"{name}-{uuid.uuid4().hex[:12]}")
        self.base_url = base_url
        self.api_key = api_key
        self.ended = False
        outer = CURRENT.get()
        self._outer = None if outer is None else outer.owner
        parent = None if outer is None else outer.program
        root = None if outer is None else outer.root or outer.program
        calls = _checked_count("expected_calls", expected_calls)
        tokens = _checked_count("expected_tokens", expected_tokens)
        if outer is not None:
            calls, tokens = outer.expected_calls, outer.expected_tokens
        self.place = Place(
            self.id,
            parent=parent,
            root=root,
            expected_calls=calls,
            expected_tokens=tokens,
            owner=self,
        )
        self.service_ms: dict[str, float] = {} if self._outer is None else self._outer.service_ms
        self._servers: dict[str, Listener] = {}
        if base_url is not None:
            self.used(Server.at(base_url, api_key))
        self._token: Token[Place | None] | None = None
        self._process = os.getpid()
        self._numbers = itertools.count(1)

    # -- the block ------------------------------------------------------------------------------

    def __enter__(self) -> Program:
        if self._token is not None:
            raise RuntimeError(f"program {self.id!r} is entered already")
        self._token = CURRENT.set(self.place)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()
        self.end(abort=kind is not None)

    async def __aenter__(self) -> Program:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()
        await asyncio.to_thread(self.end, abort=kind is not None)

    def _leave(self) -> None:
        if self._token is not None:
            CURRENT.reset(self._token)
            self._token = None

    def end(self, *, abort: bool = False) -> None:
        """The program is over; with *abort* its calls are aborted first. Once is enough.

        In a process that was forked inside of the block this does nothing: the run goes on in the
        process that opened it.
        """
        if self.ended or os.getpid() != self._process:
            return
        self.ended = True
        if self.place.parent is not None:
            return  # its calls are the outer program's, and go with that
        for server in self._servers.values():
            if abort:
                server.abort(self.id)
            server.end(self.id)

    # -- where calls are made -------------------------------------------------------------------

    def thread(self, name: str | None = None) -> Thread:
        """``with p.thread():``, a chain of calls of its own; numbered if it is given no name."""
        thread = _checked(name if name is not None else str(next(self._numbers)))
        return Thread(self.place.within(thread))

    @property
    def here(self) -> Place:
        """The thread of this program that the code runs in, its main one if it is elsewhere."""
        place = CURRENT.get()
        return place if place is not None and place.owner is self else self.place

    def headers(self) -> dict[str, str]:
        """What a request of this program says of itself, for a client that nothing here covers."""
        return self.here.headers()

    def used(self, server: Listener) -> None:
        """A call of the program was made at *server*, which has to learn of its end."""
        self._servers.setdefault(server.url, server)
        if self._outer is not None:
            self._outer.used(server)

    def state(self) -> dict[str, Any] | None:
        """What the server has on record of the program: the fields of ``/v1/programs/{id}``.

        Of the first server that knows it; None if none does, as before its first call.
        """
        states = (server.state(self.id) for server in self._servers.values())
        return next((state for state in states if state is not None), None)

    # -- clients --------------------------------------------------------------------------------

    def openai(self, **kwargs: Any) -> OpenAI:
        """An OpenAI client of this program; *kwargs* are the client's own."""
        return clients.openai_client(self, asynchronous=False, **kwargs)

    def async_openai(self, **kwargs: Any) -> AsyncOpenAI:
        """An asynchronous OpenAI client of this program; *kwargs* are the client's own."""
        return clients.openai_client(self, asynchronous=True, **kwargs)

    def anthropic(self, **kwargs: Any) -> Anthropic:
        """An Anthropic client of this program; *kwargs* are the client's own."""
        return clients.anthropic_client(self, asynchronous=False, **kwargs)

    def async_anthropic(self, **kwargs: Any) -> AsyncAnthropic:
        """An asynchronous Anthropic client of this program; *kwargs* are the client's own."""
        return clients.anthropic_client(self, asynchronous=True, **kwargs)

    def httpx(self, **kwargs: Any) -> Client:
        """An httpx client of this program, also for libraries that take an ``http_client``."""
        return clients.httpx_client(self, asynchronous=False, **kwargs)

    def async_httpx(self, **kwargs: Any) -> AsyncClient:
        """An asynchronous httpx client of this program."""
        return clients.httpx_client(self, asynchronous=True, **kwargs)

    def requests(self) -> Session:
        """A requests session of this program."""
        session: Session = clients.requests_session(self)
        return session


class Thread:
    """A part of a program whose calls are one chain, as a ``with`` or ``async with`` block."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._token: Token[Place | None] | None = None

    def __enter__(self) -> Thread:
        self._token = CURRENT.set(self.place)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            CURRENT.reset(self._token)
            self._token = None

    async def __aenter__(self) -> Thread:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


def _checked(value: str) -> str:
    """*value* if the server will take it for an id; raises InvalidProgram."""
    if 1 <= len(value) <= MAX_ID_CHARACTERS and value.isprintable():
        return value
    raise InvalidProgram("id", f"must have 1 to {MAX_ID_CHARACTERS} printable characters")


def _checked_count(name: str, value: int | None) -> int | None:
    """*value* if the server will take it for what is expected; raises InvalidProgram."""
    if value is None or (type(value) is int and 1 <= value <= MAX_EXPECTED):
        return value
    raise InvalidProgram(name, f"must be a whole number from 1 to {MAX_EXPECTED}")
