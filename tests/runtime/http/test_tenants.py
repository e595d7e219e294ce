"""API keys by tenant: the file, and who gets in."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autellix_sgl.config import ProgramArgs
from autellix_sgl.errors import ConfigError
from autellix_sgl.launch_server import main
from autellix_sgl.runtime.http.tenant_middleware import (
    EVERYBODY,
    Caller,
    TenantMiddleware,
    caller_of,
    path_of,
)
from autellix_sgl.runtime.http.tenants import Tenants
from autellix_sgl.runtime.launch.support import check_tenancy

ADMIN = "admin-key"
TENANTS = Tenants.of({"one": "key-1", "two": ["key-2", "key-3"]})


def test_a_key_leads_to_its_tenant() -> None:
    """One or several keys each, as they are or hashed; others lead nowhere."""
    hashed = "sha256:" + hashlib.sha256(b"key-4").hexdigest()
    tenants = Tenants.of({"one": "key-1", "two": ["key-2", hashed]})
    assert tenants.names == ("one", "two")
    assert tenants.tenant_of("key-1") == "one"
    assert tenants.tenant_of("key-2") == tenants.tenant_of("key-4") == "two"
    assert tenants.tenant_of(hashed) is None
    assert tenants.tenant_of("") is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([], "object"),
        ({}, "at least one"),
        ({"": "k"}, "name"),
        ({"a/b": "k"}, "name"),
        ({"a": []}, "no key"),
        ({"a": ""}, "a key is"),
        ({"a": "two words"}, "a key is"),
        ({"a": 5}, "a key is"),
        ({"a": "sha256:abc"}, "64 hexadecimal"),
        ({"a": "k", "b": ["l", "k"]}, "in common"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: Any, problem: str
) -> None:
    """Before anything is started; the flag, the file and the tenant are named, no key is."""
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    assert main([f"--program-tenants={path}"]) == 1
    error = capsys.readouterr().err
    assert f"--program-tenants {path}: " in error
    assert problem in error
    assert "two words" not in error


def test_a_missing_file_and_stock_scheduling_are_refused(tmp_path: Path) -> None:
    """Without our scheduling nobody would ask for the keys."""
    with pytest.raises(ConfigError, match="No such file"):
        Tenants.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="--program-policy none"):
        ProgramArgs(policy="none", tenants="tenants.json")


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({"api_key": "k"}, "--api-key does not go"),
        ({"admin_api_key": None}, "needs --admin-api-key"),
        ({"grpc_port": 5}, "--grpc-port does not go"),
    ],
)
def test_no_way_in_is_left_unguarded(setting: dict[str, Any], problem: str) -> None:
    """Settings of SGLang's that tenants need, and those that would let a stranger in."""
    good = {"api_key": None, "admin_api_key": ADMIN, "grpc_port": None}
    check_tenancy(SimpleNamespace(**good))
    with pytest.raises(ConfigError, match=problem):
        check_tenancy(SimpleNamespace(**{**good, **setting}))


def call(path: str = "/generate", method: str = "POST", **headers: str) -> tuple[int, Any]:
    """The status of a request through the middleware, and whose the app took it for."""
    seen: list[Caller] = []
    sent: list[Any] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        seen.append(caller_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(TenantMiddleware(app, tenants=TENANTS, admin_key=ADMIN)(scope, receive, send))
    return sent[0]["status"], seen[0] if seen else None


def test_a_tenant_is_known_by_its_key() -> None:
    """As a bearer token or as Anthropic's clients send it; the admin has a key too."""
    assert call(authorization="Bearer key-1") == (200, Caller("one"))
    assert call(authorization="bearer key-3") == (200, Caller("two"))
    assert call(x_api_key="key-2") == (200, Caller("two"))
    assert call(authorization=f"Bearer {ADMIN}") == (200, Caller(admin=True))
    assert call(authorization="Bearer unused", x_api_key="key-1") == (200, Caller("one"))


def test_nobody_gets_in_without_a_key() -> None:
    """None, a wrong one, or the right one said wrongly; probes and preflights need none."""
    for headers in ({}, {"authorization": "Bearer nope"}, {"authorization": "Basic key-1"}):
        assert call(**headers) == (401, None)
    for path in ("/health", "/health_generate", "/ready", "/metrics"):
        assert call(path, "GET")[0] == 200
    assert call(method="OPTIONS")[0] == 200


def test_what_shows_the_administration_key_is_for_its_holder() -> None:
    """/server_info prints the command line."""
    for path in ("/server_info", "/get_server_info"):
        assert call(path, "GET", authorization="Bearer key-1") == (403, None)
        assert call(path, "GET", authorization=f"Bearer {ADMIN}")[0] == 200


def test_a_websocket_without_a_key_is_closed() -> None:
    """SGLang's own check lets every one of them through."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError("let in")

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    middleware = TenantMiddleware(app, tenants=TENANTS, admin_key=ADMIN)
    asyncio.run(middleware(scope, send, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_without_tenants_everybody_may_look_at_everything() -> None:
    """And a path is the same behind a proxy's prefix."""
    assert caller_of({}) == EVERYBODY
    assert path_of({"path": "/llm/generate", "root_path": "/llm"}) == "/generate"
