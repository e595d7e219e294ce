"""What an ASGI scope says of a request, for whoever looks at one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import Scope

if TYPE_CHECKING:
    from fastapi import Request


def path_of(scope: Scope) -> str:
    """The request's path below the prefix that a reverse proxy may have put in front of it."""
    path: str = scope.get("path", "")
    return path.removeprefix(scope.get("root_path", ""))


def scope_of(request: Request) -> Scope:
    """The ASGI scope of *request*; empty for what SGLang's gRPC port has in its place."""
    scope: Scope = getattr(request, "scope", {})
    return scope
