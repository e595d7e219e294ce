"""One server with shares: a tenant that games programs, new weights, and why calls waited."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.harness import Server, generation, running_server, tiny_flags

pytestmark = pytest.mark.engine

ADMIN = "admin-key"
KEYS = {"plain": "key-1", "gamer": "key-2"}
SLOTS = 2

# A turn is 1,000 ms times the slots; at this many ms a step it is over in some hundred steps.
COST = {"base_ms": 10.0}
TURN_MS = 1000.0 * SLOTS


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Guarded(Server):
    """The server as its administrator sees it, and the two tenants that use it."""

    shares: Path

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return super().get(path, **{"headers": bearer(ADMIN), **kwargs})

    def standings(self) -> dict[str, dict[str, Any]]:
        return {account["tenant"]: account for account in self.state()["shares"]}

    def call(self, tenant: str, program: str | None, tokens: int) -> dict[str, Any]:
        named = {} if program is None else {"program": {"id": program}}
        body = {"text": "The quick brown fox", "sampling_params": generation(tokens), **named}
        answer = self.post("/generate", body, headers=bearer(KEYS[tenant]))
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()["meta_info"]["program"]
        return result


class Load:
    """A tenant that keeps *width* calls in the system until it is told to stop."""

    def __init__(self, server: Guarded, tenant: str, *, width: int, tokens: int, fresh: bool):
        self.calls: list[dict[str, Any]] = []
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(server, tenant, number, tokens, fresh))
            for number in range(width)
        ]

    def _work(self, server: Guarded, tenant: str, number: int, tokens: int, fresh: bool) -> None:
        while not self._stopped.is_set():
            program = None if fresh else f"{tenant}-{number}"
            self.calls.append(server.call(tenant, program, tokens))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("shares")
    tenants, shares = folder / "tenants.json", folder / "shares.json"
    tenants.write_text(json.dumps(KEYS), encoding="utf-8")
    shares.write_text("{}", encoding="utf-8")
    flags = [
        *tiny_flags(tiny_model, slots=SLOTS),
        "--enable-metrics",
        "--admin-api-key",
        ADMIN,
        "--program-tenants",
        str(tenants),
        "--program-shares",
        str(shares),
        "--program-starvation-ratio",
        "0",
    ]
    with running_server(folder, flags, cost=COST) as running:
        guarded = Guarded(running.url, running.process, running.log)
        guarded.shares = shares
        yield guarded


def contend(server: Guarded, *, until_ms: float) -> dict[str, float]:
    """Service of both tenants while both wait, until one has had so much; the gamer's is fresh."""
    plain = Load(server, "plain", width=2 * SLOTS, tokens=120, fresh=False)
    gamer = Load(server, "gamer", width=2 * SLOTS, tokens=40, fresh=True)

    def both() -> dict[str, float] | None:
        found = server.standings()
        return {name: found[name]["service_ms"] for name in KEYS} if len(found) == 2 else None

    with plain, gamer:
        before = server.wait_until("both tenants", both)

        def much() -> dict[str, float] | None:
            now = both()
            if now is None:
                return None
            gained = {name: now[name] - before[name] for name in KEYS}
            return gained if max(gained.values()) >= until_ms else None

        served: dict[str, float] = server.wait_until("enough service", much, timeout_s=240)
    server.wait_until_idle()
    return served


def test_a_new_program_for_each_call_gains_nothing(server: Guarded) -> None:
    """Both tenants get half, within three turns and what runs between two passes."""
    served = contend(server, until_ms=12 * TURN_MS)
    assert abs(served["gamer"] - served["plain"]) <= 3.5 * TURN_MS


def test_new_weights_take_effect_without_a_restart(server: Guarded) -> None:
    """Three to one, once the file says so; a bad file leaves it at that."""
    server.shares.write_text('{"weights": {"plain": 3}}', encoding="utf-8")
    server.wait_until("the new weights", lambda: metric(server, "shares_loaded_total") == 2)
    server.shares.write_text('{"weights": {"plain": -1}}', encoding="utf-8")
    server.wait_until("the refusal", lambda: metric(server, "shares_rejected_total") == 1)
    assert metric(server, "shares_current") == 0
    assert "must be positive" in server.log.read_text(encoding="utf-8")
    served = contend(server, until_ms=18 * TURN_MS)
    assert abs(3 * served["gamer"] - served["plain"]) <= 3.5 * TURN_MS


def metric(server: Guarded, name: str) -> float | None:
    for line in server.get("/metrics/").text.splitlines():
        if line.startswith(f"autellix_{name}{{"):
            return float(line.rpartition(" ")[2])
    return None


def test_a_wait_is_explained_while_it_lasts_and_afterwards(server: Guarded) -> None:
    """In times that add up to it, to the last bit; the long call runs meanwhile."""
    with Load(server, "gamer", width=3 * SLOTS, tokens=60, fresh=True) as load:
        server.wait_until("a few calls", lambda: len(load.calls) > 3)
        done = threading.Thread(target=server.call, args=("plain", "explained", 40))
        done.start()

        def explained() -> Any:
            path = "/v1/programs/explained/explain"
            answer = server.get(path, headers=bearer(KEYS["plain"]))
            found = answer.json() if answer.status_code == 200 else None
            return found if found and found["active_calls"] else None

        live = server.wait_until("the call in its scheduler", explained)
        done.join()
    [call] = live["active_calls"]
    assert call["state"] in ("waiting", "running")
    assert sum(reason["ms"] for reason in call["reasons"]) == call["waited_ms"]
    after = server.get("/v1/programs/explained/explain", headers=bearer(KEYS["plain"])).json()
    assert after["active_calls"] == []
    [left] = after["last_calls"]
    assert left["state"] == "finished"
    for part in (after, left):
        assert sum(reason["ms"] for reason in part["reasons"]) == part["waited_ms"]
    for finished in load.calls:
        assert sum(finished["wait_reasons"].values()) == finished["waited_ms"]
    reasons = {reason for finished in load.calls for reason in finished["wait_reasons"]}
    assert reasons <= {"share", "level", "slots"}
    assert "slots" in reasons


def test_a_programs_explanation_is_its_tenants_own(server: Guarded) -> None:
    """To another it is not there; the administrator names the tenant."""
    server.call("plain", "secret", 2)
    path = "/v1/programs/secret/explain"
    assert server.get(path, headers=bearer(KEYS["plain"])).json()["tenant"] == "plain"
    assert server.get(path, headers=bearer(KEYS["gamer"])).status_code == 404
    refused = server.get(path, headers=bearer(KEYS["gamer"]), params={"tenant": "plain"})
    assert refused.status_code == 403
    assert server.get(path, params={"tenant": "plain"}).json()["id"] == "secret"
    assert server.get("/v1/programs/never/explain").status_code == 404
    assert "/v1/programs/{program_id}/explain" in server.get("/openapi.json").json()["paths"]
