"""Who may use the server, and whose programs a caller sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from autellix_sgl.runtime.asgi import path_of
from autellix_sgl.runtime.http.tenants import Tenants, digest_of

CALLER = "autellix_caller"
"""The key of the Caller in a request's ASGI scope."""

# What answers without a key, as with SGLang's own: probes and scrapers have none.
OPEN_PATHS = ("/health", "/ready", "/metrics")

# Shows the command line and the administration key with it.
ADMIN_PATHS = frozenset({"/server_info", "/get_server_info"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request this is. An admin may look at every tenant's programs, and names whose."""

    tenant: str = ""
    admin: bool = False


EVERYBODY = Caller(admin=True)
"""Every caller of a server without tenants; its one API key, if it has one, is SGLang's matter."""


class TenantMiddleware:
    """Lets nobody in without a tenant's key or the admin's, and notes whose the request is.

    The key is a bearer token, as SGLang has it, or Anthropic's ``x-api-key``.
    """

    def __init__(self, app: ASGIApp, *, tenants: Tenants, admin_key: str) -> None:
        self._app = app
        self._tenants = tenants
        self._admin_digest = digest_of(admin_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _is_open(scope):
            await self._app(scope, receive, send)
            return
        caller = self._caller(scope["headers"])
        if caller is None:
            await _refuse(scope, receive, send, 401, "an API key is needed; none of ours was given")
        elif path_of(scope) in ADMIN_PATHS and not caller.admin:
            await _refuse(scope, receive, send, 403, "this needs the --admin-api-key")
        else:
            scope[CALLER] = caller
            await self._app(scope, receive, send)

    def _caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
        for key in _keys(headers):
            if digest_of(key) == self._admin_digest:
                return Caller(admin=True)
            tenant = self._tenants.tenant_of(key)
            if tenant is not None:
                return Caller(tenant)
        return None


def caller_of(scope: Scope) -> Caller:
    """Whose request this is."""
    caller: Caller = scope.get(CALLER, EVERYBODY)
    return caller


def _is_open(scope: Scope) -> bool:
    return scope.get("method") == "OPTIONS" or path_of(scope).startswith(OPEN_PATHS)


def _keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[str]:
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                yield key
        elif name == b"x-api-key":
            yield value.decode("latin-1")


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": message})
        return
    kind = "authentication_error" if status == 401 else "permission_error"
    error = {"message": message, "type": kind, "param": None, "code": status}
    await JSONResponse({"error": error}, status_code=status)(scope, receive, send)
