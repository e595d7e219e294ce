"""``python -m bench.run`` on real servers, and its mistakes without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import run
from bench.records import read_calls
from tests.engine.harness import tiny_flags


def test_mistakes_are_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert run.main(["--systems", "nobody", "--rate", "1", *out]) == 2
    assert "--systems: unknown system 'nobody'" in capsys.readouterr().err
    assert run.main(["--systems", "sglang-fcfs", "--rate", "1", "--slots", "0", *out]) == 2
    assert "--slots must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run.main(["--systems", "sglang-fcfs", "--load", "0", *out])
    assert "--load: must be a number greater than 0, got '0'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.engine
def test_two_systems_replay_the_same_trace(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Six small agents, stock and ours: same calls, same lengths, prefixes found, a table."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    systems = ("sglang-fcfs", "autellix-atlas")
    arguments = [
        *("--systems", ",".join(systems), "--workload", "react", "--programs", "6"),
        *("--scale", "0.05", "--rate", "4", "--slots", "2", "--out", str(tmp_path)),
    ]
    assert run.main([*arguments, "--", *tiny_flags(tiny_model, slots=2)]) == 0
    printed = capsys.readouterr().out
    calls = {}
    for system in systems:
        assert system in printed
        folder = tmp_path / f"{system}-seed1"
        calls[system] = read_calls(folder)
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["programs"] == 6
        assert summary["cache_hit_rate"] > 0.5
        assert summary["wait_s"] is not None
    lengths = [
        sorted((c.program, c.call, c.prompt_tokens, c.output_tokens) for c in calls[system])
        for system in systems
    ]
    assert lengths[0] == lengths[1]
    assert all(c.recomputed_tokens is not None for c in calls["autellix-atlas"])
