"""Our flags: what they become, and how a bad one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autellix_sgl.config import PROGRAM_CACHE, ProgramArgs
from autellix_sgl.core import CostModel
from autellix_sgl.errors import ConfigError
from autellix_sgl.launch_server import main, parse_program_args


def test_flags_of_ours_are_taken_out_and_the_rest_is_sglangs() -> None:
    """Unknown flags pass through in order, untouched."""
    args, rest = parse_program_args(
        ["--tp-size", "2", "--program-policy", "plas", "--program-levels=3", "--port", "1"]
    )
    assert (args.policy, args.levels) == ("plas", 3)
    assert rest == ["--tp-size", "2", "--port", "1"]


def test_no_flags_are_the_documented_defaults() -> None:
    """A command line without our flags gives ProgramArgs()."""
    assert parse_program_args([])[0] == ProgramArgs()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--program-levels", "0"),
        ("--program-first-quantum-ms", "-5"),
        ("--program-first-quantum-ms", "nan"),
        ("--program-first-quantum-ms", "inf"),
        ("--program-quantum-growth", "0.5"),
        ("--program-starvation-ratio", "-1"),
        ("--program-schedule-interval", "0"),
        ("--program-lease-s", "0"),
        ("--program-max-programs", "-3"),
        ("--program-cost-model", "/nonexistent.json"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything slow is imported: exit status 1 and a line that names the flag."""
    assert main([f"{flag}={value}"]) == 1
    error = capsys.readouterr().err
    assert flag in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--program-policy", "lottery"),
        ("--program-levels", "many"),
        ("--program-eviction", "fifo"),
        ("--program-admission", "on"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_the_parser(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """argparse's exit status 2, and the flag in its last line."""
    with pytest.raises(SystemExit) as stopped:
        main([flag, value])
    assert stopped.value.code == 2
    assert flag in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_cost_model_is_read_from_its_file(tmp_path: Path) -> None:
    """A JSON object with the coefficients."""
    path = tmp_path / "cost.json"
    path.write_text(json.dumps({"base_ms": 3, "per_prefill_token_ms": 0.5}), encoding="utf-8")
    assert ProgramArgs(cost_model=str(path)).initial_cost_model() == CostModel(3, 0.5)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"base_ms": "much"}', '{"bass_ms": 1}'])
def test_a_bad_cost_file_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    """The message names the flag, the file, and the field if it comes to that."""
    path = tmp_path / "cost.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--program-cost-model .*cost\.json"):
        ProgramArgs(cost_model=str(path)).initial_cost_model()


SUPPORTED: dict[str, Any] = {
    "schedule_policy": "fcfs",
    "enable_priority_scheduling": False,
    "disable_radix_cache": False,
    "pp_size": 1,
    "disaggregation_mode": "null",
    "enable_pdmux": False,
    "dllm_algorithm": None,
    "speculative_algorithm": None,
    "attn_dp_size": 1,
    "tokenizer_worker_num": 1,
    "enable_hisparse": False,
    "strip_thinking_cache": False,
    "encoder_only": False,
    "use_ray": False,
    "smg_grpc_mode": False,
    "grpc_mode": False,
}


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("schedule_policy", "hrrn", "--schedule-policy"),
        ("enable_priority_scheduling", True, "--enable-priority-scheduling"),
        ("disable_radix_cache", True, "--disable-radix-cache"),
        ("pp_size", 2, "--pp-size"),
        ("disaggregation_mode", "prefill", "--disaggregation-mode"),
        ("enable_pdmux", True, "--enable-pdmux"),
        ("dllm_algorithm", "x", "--dllm-algorithm"),
        ("speculative_algorithm", "EAGLE", "--speculative-algorithm"),
        ("attn_dp_size", 2, "--attn-dp-size"),
        ("tokenizer_worker_num", 2, "--tokenizer-worker-num"),
        ("enable_hisparse", True, "--enable-hisparse"),
        ("strip_thinking_cache", True, "--strip-thinking-cache"),
        ("encoder_only", True, "--encoder-only"),
        ("use_ray", True, "--use-ray"),
        ("grpc_mode", True, "--grpc-mode"),
    ],
)
def test_every_mode_that_does_not_fit_is_refused_with_its_reason(
    field: str, value: object, named: str
) -> None:
    """The message names the flag and the way out; the stock policy refuses nothing."""
    from autellix_sgl.runtime.launch.support import WAY_OUT, check_supported

    check_supported(SimpleNamespace(**SUPPORTED), ProgramArgs())
    config = SimpleNamespace(**{**SUPPORTED, field: value})
    with pytest.raises(ConfigError) as refused:
        check_supported(config, ProgramArgs())
    assert str(refused.value).startswith(named)
    assert str(refused.value).endswith(WAY_OUT)
    check_supported(config, ProgramArgs(policy="none"))


@pytest.mark.parametrize("flag", ["--program-admission=working-set", "--program-eviction=value"])
def test_what_needs_programs_does_not_go_with_the_stock_policy(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Silently doing nothing would be worse."""
    assert main([flag, "--program-policy", "none"]) == 1
    assert flag.replace("=", " ") in capsys.readouterr().err


OWN_CACHE = {
    **SUPPORTED,
    "radix_cache_backend": PROGRAM_CACHE,
    "radix_eviction_policy": "lru",
    "enable_lmcache": False,
    "enable_flexkv": False,
}


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("radix_cache_backend", "flexkv", "--radix-cache-backend flexkv"),
        ("radix_eviction_policy", "lfu", "--radix-eviction-policy lfu"),
        ("enable_lmcache", True, "--enable-lmcache"),
        ("enable_flexkv", True, "--enable-flexkv"),
    ],
)
def test_eviction_by_value_refuses_another_cache_or_order(
    field: str, value: object, named: str
) -> None:
    """There is one radix cache and one order of eviction; without the flag both are SGLang's."""
    from autellix_sgl.runtime.launch.support import check_supported

    by_value = ProgramArgs(eviction="value")
    check_supported(SimpleNamespace(**OWN_CACHE), by_value)
    config = SimpleNamespace(**{**OWN_CACHE, field: value})
    with pytest.raises(ConfigError, match=named):
        check_supported(config, by_value)
    check_supported(config, ProgramArgs())


def test_only_eviction_by_value_asks_sglang_for_another_cache() -> None:
    assert ProgramArgs().server_flags() == []
    assert ProgramArgs(admission="working-set").server_flags() == []
    assert ProgramArgs(eviction="value").server_flags() == ["--radix-cache-backend", PROGRAM_CACHE]


def test_the_offline_engine_refuses_to_place_by_program() -> None:
    """Nobody would watch its replicas between two of its calls."""
    from autellix_sgl.engine import Engine

    with pytest.raises(ConfigError, match="program-radix needs a server"):
        Engine(load_balance_method="program-radix", dp_size=2)
