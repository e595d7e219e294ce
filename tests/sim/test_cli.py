from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autellix_sgl.sim.cli import main
from autellix_sgl.workloads.cli import main as workloads_main

SMALL = ["--workload", "chat", "--programs", "20", "--scale", "0.2", "--systems", "fcfs,atlas"]


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(list(arguments)) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_figures_print_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Both of them."""
    assert result(capsys, "figure2")["total_waiting"]
    assert result(capsys, "figure9")["makespan"]


def test_run_reports_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    """What the project compares systems by."""
    found = result(capsys, "run", *SMALL, "--load", "1.5")
    metrics = found["systems"]["atlas"]  # type: ignore[index]
    for name in (
        "token_latency_ms", "response_ms", "programs_per_s", "tokens_per_s", "cache_hit_rate",
        "preemptions", "recomputed_tokens", "jain_index", "max_call_wait_ms",
    ):  # fmt: skip
        assert name in metrics
    assert set(metrics["token_latency_ms"]) == {"mean", "p50", "p95", "p99"}
    assert 0 < metrics["jain_index"] <= 1


def test_sweep_and_makespan(capsys: pytest.CaptureFixture[str]) -> None:
    """A row a load, and a gain over the first system."""
    found = result(capsys, "sweep", *SMALL, "--loads", "0.5,2")
    assert [row["load"] for row in found["rows"]] == [0.5, 2.0]  # type: ignore[attr-defined]
    offline = result(capsys, "makespan", *SMALL)
    assert offline["gain_over_fcfs"]["fcfs"] == 0  # type: ignore[index]


def test_run_reads_a_workload_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The file's programs at the file's times."""
    path = str(tmp_path / "w.jsonl")
    assert workloads_main(["generate", "react", "--programs", "5", "--out", path]) == 0
    found = result(capsys, "run", "--systems", "plas", "--from-file", path)
    assert found["systems"]["plas"]["programs"] == 5  # type: ignore[index]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--programs", "0"],
        ["run", "--slots", "0"],
        ["run", "--systems", "srpt", "--trace", "x"],
        ["replay", "no-such-file"],
    ],
)
def test_bad_input_ends_with_status_2(arguments: list[str]) -> None:
    """And one line on standard error."""
    assert main(arguments) == 2


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """It names the systems, explains loads and has examples."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for word in ("srpt", "capacity", "examples:"):
        assert word in text


def test_neither_package_needs_more_than_the_standard_library() -> None:
    """Importing all of them with sglang, torch and numpy blocked."""
    script = (
        "import sys\n"
        "for name in ('sglang', 'torch', 'numpy', 'orjson', 'msgspec'): sys.modules[name] = None\n"
        "import autellix_sgl.workloads.cli, autellix_sgl.sim.cli\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
