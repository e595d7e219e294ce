"""The backend as SGLang sees it: registration, refusal, and the same results as torch_native."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import autellix_sgl.runtime  # noqa: F401 (prepares the process for sglang)
from autellix_sgl.runtime.cpu import BACKEND_NAME, attention, install
from autellix_sgl.runtime.cpu.build import KernelsUnavailable
from autellix_sgl.runtime.cpu.fallback import TorchOps
from autellix_sgl.runtime.cpu.ops import Kernels
from tests.runtime.cpu.reference import Batch, Case, make_batch, relative_error

CASES = [
    Case((0, 5, 130), (4, 70, 33), kv_heads=2, group=3, head_size=64),
    Case((3, 50, 200), (1, 1, 1), kv_heads=2, group=3, head_size=64),
    Case((0, 90, 130), (40, 1, 0), kv_heads=1, group=4, head_size=32, page_size=16, window=20),
]


def layer_of(case: Case, **changes: Any) -> Any:
    from sglang.srt.layers.radix_attention import RadixAttention

    heads, size = case.kv_heads * case.group, case.head_size
    layer = RadixAttention(
        heads, size, case.scale, case.kv_heads, 0, sliding_window_size=case.window
    )
    for name, value in changes.items():
        setattr(layer, name, value)
    return layer


class Pool:
    """A KV pool of one layer with the methods the backends call."""

    def __init__(self, batch: Batch) -> None:
        self.keys, self.values, self.dtype = batch.keys.clone(), batch.values.clone(), torch.float32

    def get_key_buffer(self, layer_id: int) -> torch.Tensor:
        return self.keys

    def get_value_buffer(self, layer_id: int) -> torch.Tensor:
        return self.values

    def set_kv_buffer(self, layer: Any, loc: Any, k: torch.Tensor, v: torch.Tensor) -> None:
        self.keys[loc.loc], self.values[loc.loc] = k, v


def runner_of(case: Case, batch: Batch, **changes: Any) -> Any:
    model = torch.nn.Sequential(layer_of(case))
    runner = SimpleNamespace(
        device="cpu",
        gpu_id=0,
        model=model,
        dtype=case.dtype,
        kv_cache_dtype=case.dtype,
        use_mla_backend=False,
        spec_algorithm=SimpleNamespace(is_none=lambda: True),
        token_to_kv_pool=Pool(batch),
        req_to_token_pool=SimpleNamespace(req_to_token=batch.table),
    )
    for name, value in changes.items():
        setattr(runner, name, value)
    return runner


def forward_batch_of(case: Case, batch: Batch) -> Any:
    decodes = set(case.counts) == {1}
    mode = SimpleNamespace(
        is_decode_or_idle=lambda: decodes, is_decode=lambda: decodes, is_idle=lambda: False,
        is_mixed=lambda: False,
    )  # fmt: skip
    return SimpleNamespace(
        forward_mode=mode,
        req_pool_indices=batch.requests,
        seq_lens=torch.tensor(case.lengths),
        extend_prefix_lens=torch.tensor(case.prefixes),
        extend_seq_lens=torch.tensor(case.counts),
        out_cache_loc=batch.slots,
        encoder_lens=None,
    )


@pytest.mark.parametrize("case", CASES)
def test_same_as_torch_native(kernels: Kernels, case: Case) -> None:
    """A step through either backend writes the same pool and returns the same tokens."""
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

    batch = make_batch(case)
    results = []
    for backend_type in (attention.CpuAttnBackend, TorchNativeAttnBackend):
        runner = runner_of(case, batch)
        backend, step = backend_type(runner), forward_batch_of(case, batch)
        backend.init_forward_metadata(step)
        q = batch.q.contiguous()
        out = backend.forward(q, batch.k, batch.v, runner.model[0], step)
        results.append((out, runner.token_to_kv_pool.keys, runner.token_to_kv_pool.values))
    for found, expected in zip(*results, strict=True):
        assert relative_error(found.flatten(), expected.double().flatten()) < 2e-6


@pytest.mark.parametrize("case", CASES)
def test_shapes_that_models_hand_over(kernels: Kernels, case: Case) -> None:
    """Queries and keys may have heads, a batch of one, and be permuted: the result is the same."""
    batch = make_batch(case)
    heads, size = case.kv_heads * case.group, case.head_size
    flat, strided = batch.q.contiguous(), batch.q.reshape(-1, heads, size)
    permuted = strided.transpose(0, 1).contiguous().transpose(0, 1)
    k = batch.k.transpose(0, 1).contiguous().transpose(0, 1)
    results = []
    for q in (flat, batch.q, strided, permuted, permuted[None]):
        runner, step = runner_of(case, batch), forward_batch_of(case, batch)
        backend = attention.CpuAttnBackend(runner)
        backend.init_forward_metadata(step)
        results.append(backend.forward(q, k, batch.v, runner.model[0], step))
    assert all(torch.equal(result, results[0]) for result in results)
    assert results[0].shape == flat.shape


def test_a_layer_without_a_cap_or_window(kernels: Kernels) -> None:
    """None is as good as the values that stand for neither."""
    case = CASES[1]
    batch = make_batch(case)
    results = []
    for changes in ({}, {"logit_cap": None, "sliding_window_size": None}):
        runner, step = runner_of(case, batch), forward_batch_of(case, batch)
        layer = layer_of(case, **changes)
        backend = attention.CpuAttnBackend(runner)
        backend.init_forward_metadata(step)
        results.append(backend.forward(batch.q, batch.k, batch.v, layer, step))
    assert torch.equal(*results)


def test_what_layers_ask_of_a_backend() -> None:
    """The pools are where SGLang's models look for them."""
    case = CASES[0]
    runner = runner_of(case, make_batch(case))
    backend = attention.CpuAttnBackend(runner)
    assert backend.token_to_kv_pool is runner.token_to_kv_pool
    assert backend.req_to_token_pool is runner.req_to_token_pool


def test_queries_of_another_type(caplog: pytest.LogCaptureFixture) -> None:
    """Queries that are wider than the keys attend in torch_native, which is said once."""
    case = CASES[1]
    batch = make_batch(case)
    runner, step = runner_of(case, batch), forward_batch_of(case, batch)
    backend = attention.CpuAttnBackend(runner)
    backend.init_forward_metadata(step)
    expected = backend.forward(batch.q.contiguous(), batch.k, batch.v, runner.model[0], step)
    for _ in range(2):
        q = batch.q.double().contiguous()
        found = backend.forward(q, batch.k, batch.v, runner.model[0], step)
        assert found.dtype == torch.float64
        assert relative_error(found, expected.double()) < 2e-6
    assert caplog.text.count("attend in torch_native") == 1


@pytest.mark.parametrize(
    ("changes", "layer_changes", "reason"),
    [
        ({"use_mla_backend": True}, {}, "latent"),
        ({"spec_algorithm": SimpleNamespace(is_none=lambda: False)}, {}, "speculative"),
        ({"dtype": torch.float16}, {}, "float16"),
        ({"kv_cache_dtype": torch.float8_e4m3fn}, {}, "float8"),
        ({}, {"is_cross_attention": True}, "causal"),
        ({}, {"qk_head_dim": 72, "v_head_dim": 72}, "head size 72"),
        ({}, {"v_head_dim": 32}, "32 for values"),
        ({}, {"xai_temperature_len": 8}, "position"),
        ({}, {"scaling": None}, "scaled by None"),
        ({"token_to_kv_pool": object()}, {}, "no keys of layer 0"),
    ],
)
def test_what_it_refuses(
    changes: dict[str, Any], layer_changes: dict[str, Any], reason: str
) -> None:
    """A model the kernels cannot serve is named with the reason before anything runs."""
    case = CASES[0]
    runner = runner_of(case, make_batch(case), **changes)
    for name, value in layer_changes.items():
        setattr(runner.model[0], name, value)
    assert reason in (attention.unsupported(runner) or "")


def test_refused_model_runs_on_torch_native() -> None:
    """A refused model is served by torch_native instead."""
    case = CASES[0]
    backend = attention.create_backend(runner_of(case, make_batch(case), use_mla_backend=True))
    assert type(backend).__name__ == "TorchNativeAttnBackend"


def test_unknown_options_are_refused() -> None:
    """An attention option the kernels do not have fails loudly instead of being ignored."""
    case = CASES[0]
    batch = make_batch(case)
    runner, step = runner_of(case, batch), forward_batch_of(case, batch)
    backend = attention.CpuAttnBackend(runner)
    backend.init_forward_metadata(step)
    with pytest.raises(NotImplementedError, match="sinks"):
        backend.forward(batch.q, batch.k, batch.v, runner.model[0], step, sinks=torch.zeros(1))


def test_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without kernels the backend computes in torch and says how to get them."""

    def fail() -> None:
        raise KernelsUnavailable("no C++ compiler")

    monkeypatch.setattr(attention, "load_kernels", fail)
    case = CASES[0]
    backend = attention.CpuAttnBackend(runner_of(case, make_batch(case)))
    assert isinstance(backend.ops, TorchOps)
    assert "no C++ compiler" in caplog.text


def test_install_registers_once() -> None:
    """Installing twice adds one choice and wraps the upstream function once."""
    from sglang.srt.arg_groups.choices import ATTENTION_BACKEND_CHOICES
    from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
    from sglang.srt.mem_cache import allocation

    install()
    hooked = allocation.get_last_loc
    install()
    assert ATTENTION_BACKEND_CHOICES.count(BACKEND_NAME) == 1
    assert BACKEND_NAME in ATTENTION_BACKENDS
    assert allocation.get_last_loc is hooked


def test_upstream_hands_no_tensor_of_a_cpu_to_triton() -> None:
    """Whatever the backend's name: what page sizes above one and writing the KV table rely on."""
    from sglang.srt.mem_cache import allocation
    from sglang.srt.platforms import current_platform

    assert not current_platform.capabilities.supports_triton
    assert not allocation.support_triton(BACKEND_NAME)


def test_import_has_no_side_effect() -> None:
    """Importing the package imports neither torch nor sglang."""
    program = (
        "import sys, autellix_sgl.runtime.cpu;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'sglang')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
