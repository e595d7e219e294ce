from __future__ import annotations

import json

import pytest

from autellix_sgl.core import PLACEMENTS
from autellix_sgl.sim import Setting, fleet
from autellix_sgl.sim.cli import main
from autellix_sgl.sim.experiments import mean_latency
from autellix_sgl.sim.fleet import figure14, figure15, latency, sustained_load


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run a latency and few steps of bisection: seconds instead of minutes."""
    monkeypatch.setattr(fleet, "RUNS_FOR_ONE_REPLICA", 1)
    monkeypatch.setattr(fleet, "PRECISION", 0.3)


def test_figure_14_compares_every_placement() -> None:
    """Rates, gains over the better baseline, and the reports they come from."""
    found = figure14(Setting(programs=10, replicas=2), ["chat"], [1.0])["workloads"]
    chat = found["chat"]  # type: ignore[index]
    assert set(chat["sustained_load"]) == set(PLACEMENTS)
    assert max(chat["gain"][name] for name in fleet.BASELINES) == 1
    [row] = chat["rows"]
    assert row["load"] == 1.0
    assert set(row["placements"]) == set(row["speedup"]) == set(PLACEMENTS)


def test_placing_by_program_beats_both_baselines_on_chat() -> None:
    """Less latency at the same load, and more found in the caches."""
    setting = Setting(workload="chat", programs=480, replicas=4)
    reports = fleet.compare_placements(setting, 0.8)
    hits = {name: report["cache_hit_rate"] for name, report in reports.items()}
    for ours in ("program", "program-radix"):
        for baseline in fleet.BASELINES:
            assert hits[ours] > hits[baseline]  # type: ignore[operator]
            assert mean_latency(reports[ours]) < 0.95 * mean_latency(reports[baseline])


def test_figure_15_counts_in_rates_of_one_replica() -> None:
    """The smallest fleet is the unit; the worst of the others is named."""
    setting = Setting(workload="chat", programs=20, placement=fleet.OURS)
    found = figure15(setting, [1, 2])
    rows = found["rows"]
    assert [row["replicas"] for row in rows] == [1, 2]  # type: ignore[attr-defined]
    assert rows[0]["of_linear"] == 1  # type: ignore[index]
    assert found["worst_of_linear"] <= 1  # type: ignore[operator]


def test_a_sustained_load_keeps_to_its_bound() -> None:
    """And the highest load of all does not."""
    setting = Setting(workload="chat", programs=60)
    bound_ms = 1.5 * latency(setting, 0.1)
    load = sustained_load(setting, bound_ms)
    assert latency(setting, load) <= bound_ms < latency(setting, fleet.HIGHEST_LOAD)


def test_the_commands_print_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Both figures, in small."""
    small = ["--programs", "8"]
    assert main(["figure14", *small, "--workloads", "chat", "--replicas", "2", "--loads", "1"]) == 0
    assert "chat" in json.loads(capsys.readouterr().out)["workloads"]
    assert main(["figure15", *small, "--fleets", "1,2"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2
