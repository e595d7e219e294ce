"""The doctor's findings, here and on a server (a fake one that answers what it is told to)."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from autellix_sgl import default_model
from autellix_sgl.doctor import command, installation
from autellix_sgl.patches import fingerprint
from autellix_sgl.patches.acceptance import VARIABLE
from autellix_sgl.patches.inventory import PATCHES

STATISTICS = {"programs": 3, "idle_programs": 1, "opened": 7, "evicted": 2}


def process(**changes: Any) -> dict[str, Any]:
    patches = ["scheduler_class", "cpu_last_loc"]
    return {"role": "scheduler", "pid": 41, "sglang": "0.5.23", "patches": patches, **changes}


def program_state(**changes: Any) -> dict[str, Any]:
    return {
        "policy": "atlas",
        "levels": [
            {"from_ms": 0.0, "to_ms": 200.0, "quantum_ms": 200.0},
            {"from_ms": 200.0, "to_ms": None, "quantum_ms": None},
        ],
        "starvation_ratio": 8.0,
        "schedule_interval": 4,
        "cost_model": {
            "base_ms": 11.5,
            "per_prefill_token_ms": 0.25,
            "per_decode_call_ms": 1.5,
            "per_context_token_ms": 0.001,
            "error": 0.07,
        },
        "cost_error_now": 0.12,
        "waiting": 5,
        "running": 2,
        "calls_per_level": [6, 1],
        "counters": {"preemptions": 9, "pass_seconds": 0.25},
        "processes": [process()],
        "samples": [[[1.0, 0.0, 1.0, 9.0], 12.0]],
        **changes,
    }


def server_info(*programs: dict[str, Any] | None, tp_size: int = 1) -> dict[str, Any]:
    states = [{} if program is None else {"program": program} for program in programs]
    return {"version": "0.5.23", "tp_size": tp_size, "internal_states": states}


@dataclass
class FakeServer:
    """``answers`` maps a path, without its query, to a status and a body."""

    url: str = ""
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    authorizations: list[str | None] = field(default_factory=list)

    def answer(self, path: str, body: object, status: int = 200) -> None:
        self.answers[path] = (status, json.dumps(body).encode())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A fake server with one healthy replica; tests replace its answers."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.authorizations.append(self.headers["Authorization"])
            status, body = fake.answers.get(self.path.partition("?")[0], (404, b"{}"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{httpd.server_port}"
    fake.answer("/server_info", server_info(program_state()))
    fake.answer("/v1/programs", {"data": [], "statistics": STATISTICS})
    yield fake
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def ask(server: FakeServer, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    """Exit status and standard output of the command."""
    status = command.main(["--url", server.url, *flags])
    return status, capsys.readouterr().out


def row(text: str, name: str) -> str:
    """What stands behind *name* in the aligned text."""
    found = [line for line in text.splitlines() if line.strip().startswith(name + "  ")]
    assert len(found) == 1, f"{name!r} stands in {len(found)} lines of:\n{text}"
    return found[0].strip().removeprefix(name).strip()


# -- a running server ---------------------------------------------------------------------------


def test_a_healthy_server_is_shown_and_passes(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Policy, costs, errors, levels, counters, processes and the table's statistics."""
    status, text = ask(server, capsys)
    assert status == 0
    assert row(text, "policy") == "atlas"
    assert row(text, "starvation ratio") == "8"
    assert "11.5 a step" in row(text, "service of a step")
    assert row(text, "error of the fit") == "7 %"
    assert row(text, "error now") == "12 %"
    assert row(text, "preemptions") == "9"
    assert row(text, "scheduler 41").endswith("scheduler_class, cpu_last_loc")
    assert row(text, "evicted") == "2"
    assert row(text, "1").split("  ")[0] == "200 to any ms"
    assert text.splitlines()[-1] == "Program scheduling is in effect."


def test_the_tenants_shares_are_shown(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each tenant that has calls; none on a server without shares."""
    assert "tenant" not in ask(server, capsys)[1]
    account = {"tenant": "a", "weight": 0.5, "turn": 7, "service_ms": 812.5, "calls": 3}
    standings = [{**account, "waiting": 2}, {**account, "tenant": "", "waiting": 0}]
    server.answer("/server_info", server_info(program_state(shares=standings)))
    _, text = ask(server, capsys)
    assert row(text, "tenant a") == "weight 0.5, served 812.5 ms, in turn 7, 2 of 3 calls wait"
    assert row(text, "tenant without a name").endswith("0 of 3 calls wait")


def test_json_carries_the_same_without_the_samples(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Machines get every field of the state, but not hundreds of step timings."""
    status, text = ask(server, capsys, "--json")
    found = json.loads(text)
    assert (status, found["ok"], found["problems"]) == (0, True, [])
    assert found["replicas"][0]["counters"] == {"preemptions": 9, "pass_seconds": 0.25}
    assert "samples" not in found["replicas"][0]
    assert found["programs"] == STATISTICS


def test_a_stock_server_is_told_apart(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """It answers, but says nothing of programs: exit 1, and no question about /v1/programs."""
    server.answer("/server_info", server_info(None))
    del server.answers["/v1/programs"]
    status, text = ask(server, capsys)
    assert status == 1
    assert "program scheduling is not in effect" in text


def test_one_stock_replica_among_ours_is_named(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a server that schedules programs is not one that does."""
    server.answer("/server_info", server_info(program_state(), None))
    status, text = ask(server, capsys)
    assert status == 1
    assert "in effect in 1 of 2 replicas only" in text


@pytest.mark.parametrize(
    ("processes", "tp_size", "complaint"),
    [
        ([process(patches=[])], 1, "patch scheduler_class is not in effect in scheduler 41"),
        ([process()], 2, "1 of 2 ranks report themselves"),
        ([process(), process(pid=42, sglang="0.5.20")], 2, "its ranks differ"),
        ([process(), process(pid=42, patches=["scheduler_class"])], 2, "its ranks differ"),
    ],
)
def test_every_rank_is_judged(
    server: FakeServer,
    capsys: pytest.CaptureFixture[str],
    processes: list[dict[str, Any]],
    tp_size: int,
    complaint: str,
) -> None:
    """A rank that is silent, stock or of another version is a problem of its replica."""
    state = program_state(processes=processes)
    server.answer("/server_info", server_info(state, tp_size=tp_size))
    status, text = ask(server, capsys)
    assert status == 1
    assert f"WRONG  Replica 0: {complaint}" in text


def test_the_api_key_is_sent_to_both_endpoints(server: FakeServer) -> None:
    """As a bearer token, which is what SGLang checks."""
    assert command.main(["--url", server.url, "--api-key", "secret"]) == 0
    assert server.authorizations == ["Bearer secret"] * 2


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (401, b"{}", "wants another API key (HTTP 401): pass --api-key"),
        (404, b"{}", "answers HTTP 404"),
        (200, b"<html>", "answers no JSON"),
        (200, b"[1]", "something else than a JSON object"),
        (200, b"{}", "not as an SGLang server"),
    ],
)
def test_an_answer_that_cannot_be_judged_is_one_line(
    server: FakeServer, capsys: pytest.CaptureFixture[str], status: int, body: bytes, line: str
) -> None:
    """Exit 2, nothing on standard output, the reason on standard error."""
    server.answers["/server_info"] = (status, body)
    assert command.main(["--url", server.url]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert line in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://127.0.0.1:1", "no answer from http://127.0.0.1:1: Connection refused"),
        ("127.0.0.1:1", "no answer from http://127.0.0.1:1"),
        ("ftp://127.0.0.1", "is not an address of an HTTP server"),
        ("http://", "is not an address of an HTTP server"),
    ],
)
def test_no_server_there_is_one_line(
    url: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused connection, a missing scheme and a wrong one."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert command.main(["--url", url]) == 2
    assert line in capsys.readouterr().err


def test_asking_a_server_imports_neither_torch_nor_sglang(server: FakeServer) -> None:
    """So that it answers at once, and from a machine that has neither."""
    script = (
        "import sys; sys.modules['torch'] = sys.modules['sglang'] = None\n"
        "from autellix_sgl.doctor import command\n"
        f"sys.exit(command.main(['--url', {server.url!r}]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Program scheduling is in effect." in result.stdout


# -- this installation --------------------------------------------------------------------------


def by_name(found: Mapping[str, Any]) -> dict[str, Any]:
    return {check["name"]: check for check in found["checks"]}


def examine(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = command.main(["--json"])
    return status, json.loads(capsys.readouterr().out)


def test_the_installation_is_judged_patch_by_patch(capsys: pytest.CaptureFixture[str]) -> None:
    """On the pinned SGLang every definition is as recorded."""
    status, found = examine(capsys)
    assert (status, found["ok"]) == (0, True)
    assert by_name(found)["SGLang"]["detail"] == fingerprint.SGLANG_VERSION
    assert [patch["name"] for patch in found["patches"]] == [patch.name for patch in PATCHES]
    assert all(patch["reason"] and not patch["problems"] for patch in found["patches"])


def test_another_version_of_sglang_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found and expected are both named."""
    monkeypatch.setattr(installation, "installed_version", lambda: "0.5.20")
    status, found = examine(capsys)
    assert status == 1
    assert by_name(found)["SGLang"]["ok"] is False
    assert by_name(found)["SGLang"]["detail"] == "0.5.23 is needed, found 0.5.20"


def test_without_sglang_each_patch_says_so_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each of its definitions."""
    monkeypatch.setattr(installation, "installed_version", lambda: None)
    status, found = examine(capsys)
    assert status == 1
    assert all(patch["problems"] == ["SGLang is not installed"] for patch in found["patches"])


def test_a_changed_definition_is_traced_to_its_patch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patch that relies on it is wrong, the others are not, and the text marks it."""
    changed = PATCHES[0].target
    taken = fingerprint.recorded()
    monkeypatch.setattr(fingerprint, "recorded", lambda: {**taken, changed: "0" * 16})
    status, found = examine(capsys)
    assert status == 1
    assert [bool(patch["problems"]) for patch in found["patches"]] == [
        patch.target == changed for patch in PATCHES
    ]
    assert command.main([]) == 1
    text = capsys.readouterr().out
    assert f"{changed} has changed" in " ".join(text.split())
    assert "WRONG  upstream" in text


def test_an_accepted_change_is_shown_and_no_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in the environment: what changed, and what is as recorded after all."""
    target = "sglang.srt.mem_cache.common:release_kv_cache"
    taken = fingerprint.recorded()
    monkeypatch.setattr(fingerprint, "recorded", lambda: {**taken, target: "0" * 16})
    monkeypatch.setenv(VARIABLE, "release_kv_cache, Req.reset_for_retract")
    status, found = examine(capsys)
    assert status == 0
    check = by_name(found)["accepted changes"]
    assert check["ok"] is None
    assert f"{target} (changed)" in check["detail"]
    assert "Req.reset_for_retract (as recorded)" in check["detail"]


def test_a_name_to_accept_that_is_none_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt one would accept nothing, unseen."""
    monkeypatch.setenv(VARIABLE, "relase_kv_cache")
    status, found = examine(capsys)
    assert status == 1
    assert "relase_kv_cache is not relied on" in by_name(found)["accepted changes"]["detail"]


def test_nothing_is_said_of_accepting_where_nothing_is_accepted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without the variable there is no such line."""
    _, found = examine(capsys)
    assert "accepted changes" not in by_name(found)


def test_a_servers_accepted_changes_are_shown_by_process(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside its patches."""
    accepting = process(accepted=["sglang.srt.mem_cache.common:release_kv_cache"])
    server.answer("/server_info", server_info(program_state(processes=[accepting])))
    status, text = ask(server, capsys)
    assert status == 0
    assert "accepted as changed: sglang.srt.mem_cache.common:release_kv_cache" in " ".join(
        text.split()
    )


def test_a_missing_default_model_is_no_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A server can be given another; the doctor says what is missing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(default_model, "DISTRIBUTION", "no-such-distribution")
    status, found = examine(capsys)
    assert status == 0
    assert by_name(found)["default model"]["ok"] is None
    assert "no-such-distribution is not installed" in by_name(found)["default model"]["detail"]


def test_an_old_python_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version that is needed is named."""
    monkeypatch.setattr(installation, "MINIMUM_PYTHON", (4, 0))
    status, found = examine(capsys)
    assert status == 1
    assert "4.0 or later is needed" in by_name(found)["Python"]["detail"]
