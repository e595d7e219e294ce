"""Starts that must fail say why in one line; the stock policy is SGLang's own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from bench.servers import command
from tests.engine.harness import generation, running_server, tiny_flags

pytestmark = pytest.mark.engine


def failed_start(*flags: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the server with *flags* that keep it from starting."""
    return subprocess.run(
        command(*flags), capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--pp-size", "2"], "--pp-size"),
        (["--enable-priority-scheduling"], "--enable-priority-scheduling"),
        (["--schedule-policy", "hrrn"], "--schedule-policy"),
    ],
)
def test_a_mode_that_does_not_fit_is_refused_by_name(
    flags: list[str], named: str, tiny_model: Path
) -> None:
    """Non-zero exit, and the last line names the flag at fault."""
    result = failed_start(*tiny_flags(tiny_model, slots=2), *flags)
    assert result.returncode != 0
    assert named in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_an_occupied_port_is_said_at_once() -> None:
    """Before any slow import, with the port in the line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = failed_start("--port", port, timeout_s=30)
    assert result.returncode == 1
    assert port in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_unknown_sglang_stops_the_start(tiny_model: Path, tmp_path: Path) -> None:
    """A changed upstream definition: the patch, the symbol and both versions are named."""
    script = (
        "import sys\n"
        "from autellix_sgl.patches import fingerprint\n"
        "target = 'sglang.srt.managers.scheduler:Scheduler.get_next_batch_to_run'\n"
        "expected = {**fingerprint.recorded(), target: 'something else'}\n"
        "fingerprint.recorded = lambda: expected\n"
        "from autellix_sgl.launch_server import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *tiny_flags(tiny_model, slots=2)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    for part in ("scheduler_class", "Scheduler.get_next_batch_to_run", "0.5.23"):
        assert part in last


def test_the_stock_policy_is_sglangs_own_scheduler(tiny_model: Path, tmp_path: Path) -> None:
    """--program-policy none: no program state, no program routes, no field in the response."""
    flags = [*tiny_flags(tiny_model, slots=2), "--program-policy", "none"]
    with running_server(tmp_path, flags) as server:
        output = server.generate({"text": "Hello", "sampling_params": generation(4)})
        assert "program" not in output["meta_info"]
        assert "program" not in server.get("/server_info").json()["internal_states"][0]
        assert server.get("/v1/programs").status_code == 404


def test_being_installed_changes_nothing_of_sglang() -> None:
    """No plugin entry point, and a process that imports sglang gets its own classes."""
    assert not [
        point
        for point in entry_points(group="sglang.srt.plugins")
        if point.value.startswith("autellix_sgl")
    ]
    script = (
        "import autellix_sgl.runtime\n"  # what this machine needs to import sglang at all
        "from sglang.srt.managers import io_struct, scheduler\n"
        "assert scheduler.Scheduler.__module__ == 'sglang.srt.managers.scheduler'\n"
        "assert not any('autellix' in t.__module__ for t in io_struct._all_types)\n"
        "print('stock')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ,
    )
    assert result.stdout.strip().endswith("stock"), result.stderr
