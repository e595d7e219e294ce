"""The measurement of a scheduling pass runs, in a short form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine


def test_a_pass_is_measured_by_how_many_calls_wait(tmp_path: Path) -> None:
    """A row for each number of waiting calls, each with its times."""
    out = tmp_path / "pass.json"
    command = [sys.executable, "-m", "bench.scheduling_pass", "--repeats", "5", "--out", str(out)]
    # Its status says whether the machine was fast enough, which is not asked here.
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert out.exists(), ended.stderr[-2000:]
    rows = json.loads(out.read_text())["rows"]
    assert [row["waiting"] for row in rows] == [100, 1000, 10000]
    assert all(row["idle_pass_ms"] > 0 and row["preempting_pass_ms"] > 0 for row in rows)
