"""Users' calls wait until the cost model that they are to be charged by is in force.

The port answers before that: SGLang's warm-up comes through it, and the calibration needs the
server to itself. A call that waits here has not entered the process table. What passes is what is
not charged, such as health checks, and what the start itself needs: SGLang's warm-up, and whatever
is called inside this process.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from autellix_sgl.runtime.asgi import path_of, scope_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fastapi import Request
    from sglang.srt.managers.io_struct import GenerateReqInput
    from sglang.srt.server_args import ServerArgs

logger = logging.getLogger(__name__)

# In the ASGI scope of a request that the server sent to itself.
OWN = "autellix_own"

# How often a call that waits looks whether its client is still there.
DISCONNECT_PERIOD_S = 1.0


class Opening:
    """Open from the beginning, unless :meth:`close` says otherwise; used on the event loop.

    ``prefix`` is a path that nobody else knows: what is asked below it is the server's own.
    """

    def __init__(self) -> None:
        self.prefix = "/" + secrets.token_urlsafe(16)
        self.waiting = 0
        self._opened = asyncio.Event()
        self._opened.set()

    def close(self) -> None:
        """Users' calls wait from now on."""
        self._opened.clear()

    def open(self) -> None:
        """Let the calls go that wait, and all others."""
        if self.waiting:
            logger.info("%d calls came before the start was over and go on now.", self.waiting)
        self._opened.set()

    def holds(self, request: Request) -> bool:
        """Whether a call that comes over HTTP has to wait."""
        return not self._opened.is_set() and not scope_of(request).get(OWN, False)

    async def outputs(
        self, stream: AsyncGenerator[Any, None], obj: GenerateReqInput, request: Request
    ) -> AsyncIterator[Any]:
        """The outputs of *stream*, which is not begun before the opening.

        Raises ValueError, as SGLang does, for a client that has left by then.
        """
        self.waiting += 1
        try:
            await self._wait(obj, request)
        finally:
            self.waiting -= 1
        async with aclosing(stream):
            async for output in stream:
                yield output

    async def _wait(self, obj: GenerateReqInput, request: Request) -> None:
        opened = False
        while not opened:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._opened.wait(), DISCONNECT_PERIOD_S)
            opened = self._opened.is_set()
            if not obj.background and await request.is_disconnected():
                raise ValueError(f"the client left before its call was begun: {obj.rid=}")


class OwnRequests:
    """Marks the requests below the *prefix* as the server's own, and takes it off their path."""

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and path_of(scope).startswith(self._prefix + "/"):
            # In place, so that SGLang's access log has the path without it.
            scope["path"] = scope["path"].replace(self._prefix, "", 1)
            scope["raw_path"] = scope["path"].encode()
            scope[OWN] = True
        await self._app(scope, receive, send)


class OwnAddress:
    """SGLang's *server_args* to what the server asks of itself: below the *prefix*."""

    def __init__(self, server_args: ServerArgs, prefix: str) -> None:
        self._server_args = server_args
        self._prefix = prefix

    def url(self) -> str:
        """Where the server is reached from here."""
        url: str = self._server_args.url()
        return url + self._prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server_args, name)
