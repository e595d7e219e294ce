"""Reports and sweeps from stored results."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench import report, sweep
from bench.records import CallRecord, ProgramRecord, recorder
from bench.summary import summarize

SETTING = {"workload": "mixed", "programs": 2, "scale": 0.1, "slots": 8, "flags": []}
MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "memory_gib": 8.0,
    "versions": {"sglang": "0.5.23"},
    "commit": "abc1234",
}


def store(out: Path, system: str, *, seed: int, rate: float | None, end_s: float) -> Path:
    """A complete run in which both programs end at *end_s*."""
    folder = out / f"rate-{rate}" / f"{system}-seed{seed}"
    folder.mkdir(parents=True)
    with recorder(folder) as records:
        programs = [
            ProgramRecord(
                program=name, kind="chat", calls=1, output_tokens=10, arrival_s=0.0, end_s=end_s
            )
            for name in ("a", "b")
        ]
        calls = [
            CallRecord(
                program=p.program,
                call=0,
                due_s=0.0,
                sent_s=0.0,
                end_s=end_s,
                prompt_tokens=5,
                output_tokens=10,
                wait_s=None if system == "vllm-cpu" else end_s / 2,
            )
            for p in programs
        ]
        for program, call in zip(programs, calls, strict=True):
            records.program(program)
            records.call(call)
    run = {"system": system, "seed": seed, "rate": rate, "load": None, "setting": SETTING}
    manifest = {"run": run, "machine": MACHINE, "status": "complete", "started_at": "2026"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "summary.json").write_text(json.dumps(summarize(programs, calls)))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three systems, two seeds, two rates and all at once; ours is twice as fast as stock."""
    for rate in (1.0, 2.0, None):
        for seed in (1, 2):
            unit = 2.0 * (rate or 3.0) * seed
            store(tmp_path, "sglang-fcfs", seed=seed, rate=rate, end_s=unit)
            store(tmp_path, "autellix-atlas", seed=seed, rate=rate, end_s=unit / 2)
            store(tmp_path, "vllm-cpu", seed=seed, rate=rate, end_s=unit * 1.5)
    return tmp_path


def test_the_table_pairs_systems_by_seed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(results), "--no-figures"]) == 0
    text = capsys.readouterr().out
    assert text == (results / "report" / "report.md").read_text() + "\n"
    assert re.findall(r"### (.*)", text) == ["1 programs/s", "2 programs/s", "all at once"]
    ours = next(line for line in text.splitlines() if line.startswith("| autellix-atlas"))
    cells = [cell.strip() for cell in ours.strip("|").split("|")]
    assert cells[:3] == ["autellix-atlas", "2", "150.0"]  # (100 + 200) / 2 ms a token
    assert cells[-5:] == ["0.50 (0.50 to 0.50)"] * 5


def test_every_figure_is_drawn(results: Path) -> None:
    pytest.importorskip("matplotlib")
    assert report.main([str(results)]) == 0
    for figure in ("latency", "response", "waiting", "makespan"):
        svg = results / "report" / f"mixed_{figure}.svg"
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")
        assert svg.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_an_unfinished_run_is_named_and_left_out(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store(results, "autellix-plas", seed=1, rate=1.0, end_s=1.0)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    (folder / "summary.json").unlink()
    assert report.main([str(results), "--no-figures"]) == 0
    printed = capsys.readouterr()
    assert "autellix-plas" not in printed.out
    assert f"left out, not complete: {folder}" in printed.err


def test_a_mistake_is_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(results), "--no-figures", "--baseline", "nobody"]) == 2
    assert "--baseline: there is no run of 'nobody'" in capsys.readouterr().err
    assert report.main([str(results / "nothing")]) == 2
    assert "no complete run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1.0, 10.0), (2.0, 30.0), (3.0, 90.0)], {"rate": 2.5, "bound": "exact"}),
        ([(1.0, 10.0), (2.0, 20.0)], {"rate": 2.0, "bound": "at least"}),
        ([(1.0, 70.0), (2.0, 20.0)], {"rate": 1.0, "bound": "below"}),
        ([(3.0, 100.0), (1.0, 60.0)], {"rate": 1.0, "bound": "exact"}),
    ],
)
def test_the_highest_rate_within_an_objective_of_60_ms(
    points: list[tuple[float, float]], expected: dict[str, object]
) -> None:
    assert sweep.highest_rate(points, 60.0) == expected


def test_of_several_seeds_the_median_counts() -> None:
    rows = [
        {"system": "a", "rate": rate, "token_latency_ms": latency}
        for rate, latencies in ((1.0, (10, 20, 999)), (2.0, (40, 1, 60)))
        for latency in latencies
    ]
    assert sweep.limits(rows, 30.0) == {"a": {"rate": 1.5, "bound": "exact"}}
