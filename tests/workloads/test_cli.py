from __future__ import annotations

import json
from pathlib import Path

import pytest

from autellix_sgl.workloads import load
from autellix_sgl.workloads.cli import main


def test_describe_prints_statistics_beside_the_published_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """JSON on standard output."""
    assert main(["describe", "react", "--programs", "50"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["programs"] == 50
    assert found["published_means"]["output_tokens"] == 34.14


@pytest.mark.parametrize("arrivals", ["poisson", "burst", "closed", "offline"])
def test_generate_writes_what_load_reads(tmp_path: Path, arrivals: str) -> None:
    """The file remembers how it was made."""
    out = tmp_path / "w.jsonl"
    options = ["--programs", "8", "--arrivals", arrivals, "--size", "4", "--scale", "0.1"]
    assert main(["generate", "chat", *options, "--out", str(out)]) == 0
    workload = load(out)
    assert len(workload.programs) == 8
    assert workload.concurrency == (4 if arrivals == "closed" else None)
    assert workload.source["scale"] == 0.1
    assert main(["describe", "--format", "ours", str(out)]) == 0


def test_bad_input_ends_with_status_2_and_says_what(capsys: pytest.CaptureFixture[str]) -> None:
    """Not with a traceback."""
    assert main(["describe", "nope"]) == 2
    assert "unknown workload" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """It lists the workloads and has examples."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "mapreduce" in text
