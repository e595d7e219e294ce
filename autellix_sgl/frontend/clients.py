"""Makes the clients of agents carry their program: OpenAI's, Anthropic's, httpx and requests."""

from __future__ import annotations

import os
from typing import Any, Protocol, TypeVar

from autellix_sgl.frontend.hooks import Hooks
from autellix_sgl.frontend.place import Owner, current

Client = TypeVar("Client")

# Clients insist on a key; a server that asks for none takes any.
ANY_KEY = "unused"


def wrap(client: Client) -> Client:
    """Make *client* carry the program that its calls are made in; returns the same client.

    Takes clients of OpenAI and Anthropic, synchronous or not, httpx clients and requests sessions.
    Calls outside of every program stay as they are. A client that is wrapped inside of a program
    carries that one, until it ends, in threads that know of none. Raises TypeError for anything
    else; `Program.headers` is for that.
    """
    place = current()
    return attach(client, None if place is None else place.owner)


def attach(client: Client, owner: Owner | None) -> Client:
    """`wrap` for a client that is *owner*'s where its calls are made in no program."""
    hooks = Hooks(owner)
    transport = _http_client(client)
    if transport is not None:
        hooks.install(transport)
    elif hasattr(client, "adapters") and hasattr(client, "mount"):
        from autellix_sgl.frontend.requests_session import install

        install(client, hooks)
    else:
        raise TypeError(
            f"{type(client).__name__} is no client that can be wrapped: give it an httpx client "
            "of the program (Program.httpx), or send Program.headers() yourself"
        )
    return client


def _http_client(client: object) -> Any:
    """The httpx client that *client* is or, like OpenAI's and Anthropic's, sends with."""
    for candidate in (client, getattr(client, "_client", None)):
        if hasattr(candidate, "event_hooks"):
            return candidate
    return None


class Settings(Owner, Protocol):
    """What a program says of its server."""

    base_url: str | None
    api_key: str | None


def openai_client(program: Settings, *, asynchronous: bool, **kwargs: Any) -> Any:
    """An OpenAI client of *program*."""
    import openai

    if program.base_url is not None:
        kwargs.setdefault("base_url", program.base_url.rstrip("/").removesuffix("/v1") + "/v1")
        kwargs.setdefault("api_key", program.api_key or os.environ.get("OPENAI_API_KEY", ANY_KEY))
    client = openai.AsyncOpenAI if asynchronous else openai.OpenAI
    return attach(client(**kwargs), program)


def anthropic_client(program: Settings, *, asynchronous: bool, **kwargs: Any) -> Any:
    """An Anthropic client of *program*. Its key goes as a bearer token, which SGLang reads."""
    import anthropic

    if program.base_url is not None:
        kwargs.setdefault("base_url", program.base_url.rstrip("/").removesuffix("/v1"))
        if "api_key" not in kwargs:
            kwargs.setdefault("auth_token", program.api_key or ANY_KEY)
    client = anthropic.AsyncAnthropic if asynchronous else anthropic.Anthropic
    return attach(client(**kwargs), program)


def httpx_client(program: Settings, *, asynchronous: bool, **kwargs: Any) -> Any:
    """An httpx client of *program*."""
    import httpx

    _add_server(program, kwargs)
    client = httpx.AsyncClient if asynchronous else httpx.Client
    return attach(client(**kwargs), program)


def requests_session(program: Settings) -> Any:
    """A requests session of *program*."""
    import requests

    return attach(requests.Session(), program)


def _add_server(program: Settings, kwargs: dict[str, Any]) -> None:
    if program.base_url is not None:
        kwargs.setdefault("base_url", program.base_url)
        if program.api_key is not None:
            kwargs.setdefault("headers", {"authorization": f"Bearer {program.api_key}"})
