"""Preparing a process on a machine without a GPU, and the flags such a server gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from autellix_sgl import default_model, server_defaults
from autellix_sgl.runtime.launch import platform

ROOT = Path(__file__).parents[3]
CPU = {"SGLANG_USE_CPU_ENGINE": "1"}


# --- which engine ---------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine with one NVIDIA device and torch built for it; tests take away from that."""
    platform.has_gpu.cache_clear()
    monkeypatch.delenv("SGLANG_USE_CPU_ENGINE", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(platform, "_torch_build", lambda: {"cuda": "13.0", "hip": None})
    monkeypatch.setattr(platform, "_nvml_device_count", lambda: 1)
    yield monkeypatch
    platform.has_gpu.cache_clear()


def test_a_visible_device_and_a_cuda_build_mean_the_gpu(machine: pytest.MonkeyPatch) -> None:
    """With both, SGLang is left to its GPU path."""
    assert not platform.uses_cpu_engine()


def test_a_cpu_build_of_torch_means_the_cpu(machine: pytest.MonkeyPatch) -> None:
    """A device that torch cannot use does not count."""
    machine.setattr(platform, "_torch_build", lambda: {"cuda": None, "hip": None})
    assert platform.uses_cpu_engine()


@pytest.mark.parametrize("value", ["", "-1", "-1,0", "NoDevFiles"])
def test_hidden_devices_mean_the_cpu(machine: pytest.MonkeyPatch, value: str) -> None:
    """CUDA_VISIBLE_DEVICES can hide every device, as CUDA itself reads it."""
    machine.setenv("CUDA_VISIBLE_DEVICES", value)
    assert platform.uses_cpu_engine()


def test_no_device_means_the_cpu(machine: pytest.MonkeyPatch) -> None:
    """A CUDA build of torch on a machine without a device runs on the CPU."""
    machine.setattr(platform, "_nvml_device_count", lambda: 0)
    assert platform.uses_cpu_engine()


def test_another_accelerator_is_left_alone(machine: pytest.MonkeyPatch) -> None:
    """A ROCm build of torch is not forced onto the CPU."""
    machine.setattr(platform, "_torch_build", lambda: {"cuda": None, "hip": "7.0"})
    assert not platform.uses_cpu_engine()


@pytest.mark.parametrize(("value", "cpu"), [("1", True), ("0", False)])
def test_the_environment_decides_if_it_says_anything(
    machine: pytest.MonkeyPatch, value: str, cpu: bool
) -> None:
    """SGLang's own variable wins over what the hardware looks like."""
    machine.setenv("SGLANG_USE_CPU_ENGINE", value)
    assert platform.uses_cpu_engine() is cpu


def test_with_a_gpu_preparing_changes_nothing(machine: pytest.MonkeyPatch) -> None:
    """On a GPU machine neither the environment, the modules nor the finders change."""
    before = dict(os.environ), set(sys.modules), list(sys.meta_path)
    platform.prepare()
    assert (dict(os.environ), set(sys.modules), list(sys.meta_path)) == before


# --- what is prepared -----------------------------------------------------------------------------


def test_a_missing_kernel_can_be_imported_and_explains_itself_when_called() -> None:
    """The stand-in lets SGLang's imports pass; a call says what is missing and the ways out."""
    kernels = platform.KernelStandIn()
    kernel = kernels.assign_req_to_token_pool_cpu
    with pytest.raises(NotImplementedError, match=r"sgl_kernel\.assign_req_to_token_pool_cpu"):
        kernel(1, key=2)


@pytest.mark.parametrize("name", ["merge_state_v2", "__path__", "flash_attn"])
def test_the_stand_in_has_no_other_names(name: str) -> None:
    """What upstream imports optionally stays absent, so that it takes its fallback."""
    assert not hasattr(platform.KernelStandIn(), name)


def test_preparing_twice_changes_nothing() -> None:
    """A second call adds no second finder and keeps the stand-in."""
    _python(
        """
        import sys
        from autellix_sgl.runtime.launch import platform
        before = list(sys.meta_path), sys.modules.get("sgl_kernel")
        platform.prepare()
        assert (list(sys.meta_path), sys.modules.get("sgl_kernel")) == before
        assert sum(isinstance(f, platform.TorchvisionOperators) for f in sys.meta_path) == 1
        """
    )


def test_the_stand_in_is_no_package() -> None:
    """A submodule of sgl_kernel is missing in the way that an optional import expects."""
    _python(
        """
        import importlib.util
        import autellix_sgl.runtime
        if importlib.util.find_spec("sgl_kernel").loader is None:
            try:
                import sgl_kernel.allreduce
            except ImportError:
                pass
            else:
                raise AssertionError
        """
    )


def test_torchvision_can_be_imported() -> None:
    """A torchvision that does not fit torch imports all the same, and so can sglang."""
    pytest.importorskip("torchvision")
    _python("import autellix_sgl.runtime, torchvision, transformers.image_utils")


def test_a_spawned_child_is_prepared() -> None:
    """A function of the runtime package, unpickled in a spawned child, finds a prepared process."""
    _python(
        """
        import multiprocessing
        from autellix_sgl.runtime.launch import platform

        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(platform.torchvision_is_prepared)
        """
    )


def _python(script: str) -> None:
    """Run a script in a fresh interpreter, as on a machine without a GPU."""
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=True,
        cwd=ROOT,
        env={**os.environ, **CPU},
    )


# --- the flags ------------------------------------------------------------------------------------


@pytest.fixture
def cpu_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a GPU whose default model is a small folder; returns that folder."""
    config = {
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "num_hidden_layers": 30,
        "max_position_embeddings": 8192,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "1")
    monkeypatch.setattr(default_model, "ensure", lambda: tmp_path)
    monkeypatch.setattr(server_defaults, "_available_bytes", lambda: 8 << 30)
    return tmp_path


def _flags(argv: list[str]) -> dict[str, str]:
    """What is added, as flag and value; a switch has an empty one."""
    words = server_defaults.server_defaults(argv)
    return {
        word: "" if following.startswith("--") else following
        for word, following in pairwise([*words, "--"])
        if word.startswith("--")
    }


def test_without_flags_the_default_model_is_served_on_the_cpu(cpu_server: Path) -> None:
    """Every flag that the CPU engine needs is there, and the model's whole context."""
    flags = _flags([])
    assert flags["--model-path"] == str(cpu_server)
    assert flags["--served-model-name"] == default_model.SERVED_NAME
    assert flags["--tool-call-parser"] == default_model.TOOL_CALL_PARSER
    assert flags["--constrained-json-disable-any-whitespace"] == ""
    assert flags["--device"] == "cpu"
    assert flags["--sampling-backend"] == "pytorch"
    assert flags["--context-length"] == "8192"
    assert int(flags["--max-total-tokens"]) >= 8192
    assert int(flags["--max-running-requests"]) >= server_defaults.RUNNING_CALLS_PER_CORE


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (["--max-total-tokens", "100"], "--max-total-tokens"),
        (["--max-total-tokens=100"], "--max-total-tokens"),
        (["--device=cpu", "--port", "1"], "--device"),
        (["--attention-backend", "intel_amx"], "--attention-backend"),
        (["--served-model-name", "mine"], "--served-model-name"),
    ],
)
def test_a_flag_of_the_users_is_not_added(cpu_server: Path, argv: list[str], flag: str) -> None:
    """Whatever the user gave, in either spelling, is left to the user."""
    assert flag not in _flags(argv)


@pytest.mark.parametrize("argv", [["--model-path", "m"], ["--model=m"], ["--model", "m"]])
def test_a_named_model_keeps_its_name(cpu_server: Path, argv: list[str]) -> None:
    """The default model is neither prepared nor named when the user names one."""
    flags = _flags(argv)
    assert "--model-path" not in flags
    assert "--served-model-name" not in flags
    assert flags["--device"] == "cpu"


def test_a_model_that_is_not_here_yet_keeps_its_own_context(cpu_server: Path) -> None:
    """Nothing is said about the context of a model whose configuration cannot be read."""
    assert "--context-length" not in _flags(["--model-path", "some/model"])


def test_little_memory_means_a_small_pool(
    cpu_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The KV pool takes a share of what is free, but enough for one useful call."""
    monkeypatch.setattr(server_defaults, "_available_bytes", lambda: 64 << 20)
    flags = _flags([])
    assert flags["--max-total-tokens"] == str(server_defaults.MIN_POOL_TOKENS)
    assert flags["--context-length"] == str(server_defaults.MIN_POOL_TOKENS)


def test_with_a_gpu_only_the_model_and_its_tool_calls_are_filled_in(
    cpu_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SGLang's own defaults stand on a GPU."""
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "0")
    assert _flags([]).keys() == {
        "--model-path",
        "--served-model-name",
        "--tool-call-parser",
        "--constrained-json-disable-any-whitespace",
    }


def test_a_model_of_the_users_gets_no_tool_call_format(cpu_server: Path) -> None:
    """Its own is the user's to name."""
    assert "--tool-call-parser" not in _flags(["--model-path", str(cpu_server)])


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        ([], None),
        (["--a"], ""),
        (["--a", "1"], "1"),
        (["--a=1", "--a", "2"], "2"),
        (["--ab=1"], None),
    ],
)
def test_flag_value_reads_as_argparse_does(argv: list[str], value: str | None) -> None:
    """The last occurrence counts, in either spelling."""
    assert server_defaults.flag_value(argv, "--a") == value
