"""Tenants in the simulator: who is given what, who gets how much, and what is measured of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from autellix_sgl.core import CallStamp, CostModel, Levels, StepWork, policy_named
from autellix_sgl.errors import ConfigError
from autellix_sgl.sim import Arrivals, ServerModel, Setting, Tuning
from autellix_sgl.sim.cli import main
from autellix_sgl.sim.fairness import ShareMeter, Tenant, dealt, shares
from autellix_sgl.sim.jump import JumpingScheduler
from autellix_sgl.workloads import all_at_once, generate, load, save

SETTING = Setting(
    workload="chat",
    programs=60,
    scale=0.05,
    server=ServerModel(slots=4, kv_tokens=40_000, chunk_tokens=256),
    tuning=Tuning(share_turn_ms=200.0, starvation_ratio=0.0),
)


def contended(found: Any) -> dict[str, float]:
    return {name: tenant["contended_share"] for name, tenant in found["tenants"].items()}


def test_a_new_program_for_each_call_gains_nothing() -> None:
    """Without shares most of the machine, with them half of it."""
    tenants = [Tenant("plain"), Tenant("gamer", fresh=True)]
    mixed = replace(SETTING, workload="mixed")
    found: Any = shares(mixed, Arrivals("offline"), tenants, ["atlas"])["systems"]
    assert contended(found["atlas"]["no_shares"])["gamer"] > 0.8
    assert contended(found["atlas"]["shares"])["gamer"] == pytest.approx(0.5, abs=0.03)


def test_shares_follow_the_weights() -> None:
    """While all have calls waiting, under any policy."""
    tenants = [Tenant("big", weight=6), Tenant("mid", weight=3), Tenant("small", weight=1)]
    found: Any = shares(SETTING, Arrivals("offline"), tenants, ["plas", "fcfs"])["systems"]
    assert contended(found["plas"]["shares"]) == pytest.approx(
        {"big": 0.6, "mid": 0.3, "small": 0.1}, abs=0.05
    )
    assert contended(found["fcfs"]["shares"]) == pytest.approx(
        {"big": 0.6, "mid": 0.3, "small": 0.1}, abs=0.08
    )


def test_a_tenant_that_asks_little_is_not_made_to_wait_by_a_flood() -> None:
    """Its programs answer in a fraction of the time."""
    tenants = [Tenant("light", part=0.1), Tenant("flood", part=1.9, fresh=True)]
    found: Any = shares(SETTING, Arrivals("poisson", 2.5), tenants, ["atlas"])["systems"]["atlas"]
    response = {
        name: found[name]["tenants"]["light"]["response_ms"]["mean"]
        for name in ("no_shares", "shares")
    }
    assert response["shares"] < response["no_shares"] / 2


def test_what_calls_waited_for_adds_up() -> None:
    """Over all calls; without shares nobody waits for a share."""
    tenants = [Tenant("plain"), Tenant("gamer", fresh=True)]
    found: Any = shares(SETTING, Arrivals("offline"), tenants, ["atlas"])["systems"]["atlas"]
    for name in ("no_shares", "shares"):
        assert sum(found[name]["waits_ms"].values()) == pytest.approx(found[name]["total_wait_ms"])
    assert found["no_shares"]["waits_ms"]["share"] == 0
    assert found["shares"]["waits_ms"]["share"] > 0
    assert found["shares"]["waits_ms"]["level"] > 0


def test_programs_are_dealt_by_their_parts() -> None:
    """In turn, so that each tenant's come all the time."""
    programs = generate("chat", 8, Random(1))
    owned = dealt(programs, [Tenant("a", part=3), Tenant("b", part=1, fresh=True)])
    assert [program.tenant for program in owned] == ["a", "a", "b", "a", "a", "a", "b", "a"]
    assert [program.fresh for program in owned] == [p.tenant == "b" for p in owned]


def test_a_workload_file_keeps_tenants(tmp_path: Path) -> None:
    """And is as it was where there are none."""
    programs = generate("chat", 4, Random(1))
    owned = dealt(programs, [Tenant("a"), Tenant("b", fresh=True)])
    for number, listed in enumerate((owned, programs)):
        workload = all_at_once("chat", listed)
        path = tmp_path / f"{number}.jsonl"
        save(workload, path)
        assert load(path) == workload
    assert "tenant" not in (tmp_path / "1.jsonl").read_text()


@pytest.mark.parametrize(
    ("text", "tenant"),
    [
        ("a", Tenant("a")),
        ("a:2", Tenant("a", 2.0)),
        ("a:2:0.5", Tenant("a", 2.0, 0.5)),
        ("a:fresh", Tenant("a", fresh=True)),
        ("a:2:0.5:fresh", Tenant("a", 2.0, 0.5, fresh=True)),
    ],
)
def test_a_tenant_is_named_with_weight_and_part(text: str, tenant: Tenant) -> None:
    assert Tenant.parse(text) == tenant


@pytest.mark.parametrize("text", ["", "a:0", "a:1:-1", "a:x", "a:1:2:3", "a:fresh:1", "a:inf"])
def test_what_is_no_tenant_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line that names the field."""
    assert main(["shares", "--tenants", text]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: tenants: ")
    assert len(error.splitlines()) == 1


def test_what_cannot_be_compared_is_refused() -> None:
    """Oracles, replicas, and two tenants of one name."""
    two = [Tenant("a"), Tenant("b")]
    for setting, tenants, systems in (
        (SETTING, two, ["srpt"]),
        (replace(SETTING, replicas=2), two, ["atlas"]),
        (SETTING, [Tenant("a"), Tenant("a")], ["atlas"]),
    ):
        with pytest.raises(ConfigError, match="tenants"):
            shares(setting, Arrivals("offline"), tenants, systems)


def test_a_share_counts_only_while_all_wait() -> None:
    """A tenant without a waiting call has all that it asks for."""
    meter = ShareMeter(["a", "b"], CostModel(1.0))
    s = JumpingScheduler(policy_named("fcfs"), Levels.single(), CostModel(1.0), record=meter.record)
    for call, tenant in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")):
        s.arrive(call, CallStamp(call, tenant=tenant))
    s.admit("a1")
    s.step(StepWork(decodes=("a1",)), repeat=3)
    s.admit("b1")
    s.admit("b2")
    s.step(StepWork(decodes=("a1", "b1", "b2")))
    assert meter.contended_ms == {"a": 3.0, "b": 0.0}
    assert meter.service_ms == {"a": 4.0, "b": 2.0}


def test_the_command_prints_both(capsys: pytest.CaptureFixture[str]) -> None:
    """Each system without shares and with them, and who the tenants are."""
    options = ["--workload", "chat", "--programs", "12", "--scale", "0.05", "--slots", "4"]
    assert main(["shares", *options, "--tenants", "a:2", "b:1:3:fresh"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tenants"][1] == {"name": "b", "weight": 1.0, "part": 3.0, "fresh": True}
    assert set(found["systems"]["atlas"]) == {"no_shares", "shares"}
    assert found["systems"]["atlas"]["shares"]["tenants"]["b"]["programs"] == 9
