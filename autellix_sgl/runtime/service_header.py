"""Says in every response how much service the request's program has had, for the next server.

Behind a gateway a program may come to another server, whose table does not know it. The client
sends the number of its last response along, as ``program.service_ms``.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SERVICE_HEADER = b"x-program-service-ms"

# A request's scope -> the service of its program in ms, None if it named none or that is over.
ServiceOf = Callable[[Scope], float | None]


class ServiceHeaderMiddleware:
    """Adds the header when a response starts: after the call, or, of a stream, at its beginning."""

    def __init__(self, app: ASGIApp, *, service_of: ServiceOf) -> None:
        self._app = app
        self._service_of = service_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                service_ms = self._service_of(scope)
                if service_ms is not None:
                    header = (SERVICE_HEADER, f"{service_ms:.3f}".encode())
                    message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await self._app(scope, receive, headed)
