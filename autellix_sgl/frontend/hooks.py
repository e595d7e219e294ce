"""Puts a program's headers on the requests of clients, by the seam that each kind of client has.

Clients of httpx (and of httpx2, which is like it) have event hooks. Nothing of a library is
replaced, and what a request says itself is left alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Container
from typing import Any

from autellix_sgl.frontend.place import (
    CARRIED_SERVICE_HEADER,
    PROGRAM_HEADER,
    SERVICE_HEADER,
    Owner,
    Place,
    current,
)
from autellix_sgl.frontend.remote import Server, server_behind


class Hooks:
    """What a client's event hooks do. Each client has its own.

    Code that runs inside of a program makes calls of that one. Elsewhere, as in a thread that was
    started without ceremony, they are the *owner*'s for as long as it has not ended.
    """

    def __init__(self, owner: Owner | None) -> None:
        self._owner = owner

    def labels(self, url: str, headers: Container[object]) -> dict[str, str]:
        """What to add to a request to *url* that has *headers*: those of the place this runs at."""
        place = self._place()
        if place is None or PROGRAM_HEADER in headers:
            return {}
        labels = place.headers()
        had = None if place.owner is None else place.owner.service_ms.get(server_behind(url) or "")
        if had is not None:
            labels[CARRIED_SERVICE_HEADER] = f"{had:.3f}"
        return labels

    def answered(self, url: str, sent: Any, received: Any) -> None:
        """Note a server that knows programs, to tell it of the end, and what it has given."""
        place = self._place()
        if PROGRAM_HEADER not in received or place is None or place.owner is None:
            return
        server = Server.behind(url, sent)
        if server is None:
            return
        place.owner.used(server)
        had = place.owner.service_ms
        had[server.url] = max(had.get(server.url, 0.0), float(received.get(SERVICE_HEADER, 0.0)))

    def _place(self) -> Place | None:
        place = current()
        if place is not None or self._owner is None or self._owner.ended:
            return place
        return self._owner.place

    # -- httpx ----------------------------------------------------------------------------------

    def on_request(self, request: Any) -> None:
        for name, value in self.labels(str(request.url), request.headers).items():
            if not value.isascii():
                request.headers.encoding = "utf-8"
            request.headers[name] = value

    def on_response(self, response: Any) -> None:
        self.answered(str(response.request.url), response.request.headers, response.headers)

    async def on_async_request(self, request: Any) -> None:
        self.on_request(request)

    async def on_async_response(self, response: Any) -> None:
        self.on_response(response)

    def install(self, client: Any) -> None:
        """Add the hooks to an httpx client, in place of those of an earlier `install`."""
        asynchronous = inspect.iscoroutinefunction(client.send)
        request = self.on_async_request if asynchronous else self.on_request
        response = self.on_async_response if asynchronous else self.on_response
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*_not_ours(hooks["request"]), request],
            "response": [*_not_ours(hooks["response"]), response],
        }


def _not_ours(hooks: list[Any]) -> list[Any]:
    return [hook for hook in hooks if not isinstance(getattr(hook, "__self__", None), Hooks)]
