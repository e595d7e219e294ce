"""One run from start to end, against a fake server in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autellix_sgl.errors import ConfigError
from bench.capacity import capacity_per_s
from bench.engines import ServerSetting, SGLang
from bench.load import Setting
from bench.measure import Run, measured
from bench.records import read_calls, read_programs
from bench.replay import ReplayError
from bench.systems import STOCK, SYSTEMS, System


class FakeEngine(SGLang):
    """The fake server, spoken to as SGLang is."""

    def command(self, setting: ServerSetting, flags: Sequence[str], port: int) -> list[str]:
        return [sys.executable, "-m", "tests.bench.fake_server", "--port", str(port), *flags]


def fake_run(*flags: str, **setting: Any) -> Run:
    system = System("fake", "a fake", FakeEngine(programs=True), flags)
    chosen = {"workload": "react", "programs": 4, "scale": 0.02, **setting}
    return Run(system=system, setting=Setting(**chosen), seed=1, rate=50.0)


def status(folder: Path) -> str:
    found: str = json.loads((folder / "manifest.json").read_text())["status"]
    return found


def server_pids(folder: Path) -> list[int]:
    """Processes that still have the run's log open, which every process of a server has."""
    log, found = str(folder / "server.log"), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(link) == log for link in (process / "fd").iterdir()):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_a_run_leaves_its_records_its_summary_and_no_process(tmp_path: Path) -> None:
    run = fake_run()
    summary = measured(run, tmp_path)
    folder = run.folder(tmp_path)
    trace = run.setting.draw(1, 50.0)
    assert len(read_calls(folder)) == trace.num_calls
    assert {p.program: p.output_tokens for p in read_programs(folder)} == {
        p.id: p.output_tokens for p in trace.programs
    }
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["preemptions"] == trace.num_calls
    assert summary["wait_s"] == pytest.approx(0.25 * trace.num_calls / 4)
    assert status(folder) == "complete"
    assert server_pids(folder) == []


def test_a_complete_run_is_not_repeated_and_not_mistaken_for_another(tmp_path: Path) -> None:
    first = measured(fake_run(), tmp_path)
    assert measured(fake_run(), tmp_path) == first
    with pytest.raises(ConfigError, match="complete run with another setting"):
        measured(fake_run(programs=5), tmp_path)


def test_a_wrong_length_fails_the_run_with_the_system_and_the_call(tmp_path: Path) -> None:
    run = fake_run("--tokens-short", "1")
    with pytest.raises(ReplayError, match=r"fake: program react-.*, call 0: asked for"):
        measured(run, tmp_path)
    assert status(run.folder(tmp_path)) == "failed"
    assert server_pids(run.folder(tmp_path)) == []


def test_an_interrupted_run_is_readable_and_can_be_repeated(tmp_path: Path) -> None:
    run = fake_run("--seconds-per-token", "0.05")
    folder = run.folder(tmp_path)
    calls = folder / "calls.jsonl"

    def interrupt_after_some_calls(stop: threading.Event) -> None:
        while not stop.wait(0.02):
            if calls.exists() and calls.read_text().count("\n") >= 3:
                os.kill(os.getpid(), signal.SIGINT)
                return

    # A shell starts its background jobs with SIGINT ignored, and then nothing would be raised.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = threading.Event()
    watcher = threading.Thread(target=interrupt_after_some_calls, args=(stop,))
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            measured(run, tmp_path)
    finally:
        stop.set()
        watcher.join()
        signal.signal(signal.SIGINT, before)
    assert 3 <= len(read_calls(folder)) < run.setting.draw(1, 50.0).num_calls
    assert status(folder) == "interrupted"
    assert not (folder / "summary.json").exists()
    assert server_pids(folder) == []
    measured(fake_run(), tmp_path)
    assert status(folder) == "complete"


def test_a_trace_that_does_not_fit_is_refused_with_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--scale: the longest context .* has .* takes 99992"):
        measured(fake_run(scale=50.0), tmp_path)


def test_capacity_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = System(STOCK, "a fake", FakeEngine(programs=False))
    monkeypatch.setattr("bench.systems.SYSTEMS", {**SYSTEMS, STOCK: fake})
    setting = fake_run().setting
    first = capacity_per_s(setting, 1, tmp_path)
    assert first > 0
    monkeypatch.setattr("bench.capacity.measured", None)
    assert capacity_per_s(setting, 2, tmp_path) == first
