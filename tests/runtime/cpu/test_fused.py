"""A model's modules on the kernels give what they gave before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sglang.srt.layers.activation import SiluAndMul
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.quantization.unquant import (
    UnquantizedEmbeddingMethod,
    UnquantizedLinearMethod,
)
from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
from torch import nn

from autellix_sgl.runtime.cpu import fused
from autellix_sgl.runtime.cpu.ops import Kernels
from tests.runtime.cpu.reference import relative_error


@pytest.fixture(autouse=True)
def no_fp32_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a server there is no published configuration to ask."""
    monkeypatch.setattr(fused, "_wants_fp32_head", lambda model: False)


def linear_layer(method: type, n: int = 48, k: int = 64) -> Any:
    layer: Any = nn.Linear(k, n, bias=False).requires_grad_(False)
    layer.quant_method = method()
    return layer


@pytest.mark.parametrize("residual", [False, True])
def test_norm(kernels: Kernels, residual: bool) -> None:
    """A norm on the kernels returns what SGLang's does, with a residual and without."""
    norm = RMSNorm(64).requires_grad_(False)
    x, rest = torch.randn(2, 5, 64)
    expected = norm.forward_native(x, rest.clone() if residual else None)
    fused.accelerate(norm, kernels)
    found = norm(x, rest.clone() if residual else None)
    pairs = zip(found, expected, strict=True) if residual else [(found, expected)]
    for ours, theirs in pairs:
        assert relative_error(ours, theirs.double()) < 2e-6


def test_swiglu(kernels: Kernels) -> None:
    """SwiGLU on the kernels returns what SGLang's does."""
    module, x = SiluAndMul(), torch.randn(5, 64)
    expected = module.forward_native(x)
    fused.accelerate(module, kernels)
    assert relative_error(module(x), expected.double()) < 2e-6


def test_rope(kernels: Kernels) -> None:
    """Rope on the kernels returns what SGLang's does, and leaves odd layouts to SGLang."""
    rope = RotaryEmbedding(64, 64, 128, 10_000, True, torch.float32)
    positions, q, k = torch.arange(5), torch.randn(5, 256), torch.randn(5, 128)
    expected = rope.forward_native(positions, q, k)
    fused.accelerate(rope, kernels)
    strided = torch.randn(5, 512)[:, ::2]
    assert rope(positions, strided, k.clone())[0].shape == strided.shape
    for ours, theirs in zip(rope(positions, q, k), expected, strict=True):
        assert relative_error(ours, theirs.double()) < 2e-6


def test_rope_layouts(kernels: Kernels) -> None:
    """Rows that tokens share, and a batch dimension, are rotated by SGLang's own code."""
    rope = RotaryEmbedding(64, 64, 128, 10_000, True, torch.float32)
    positions, shared = torch.arange(5), torch.randn(1, 128).expand(5, 128)
    batched = torch.randn(1, 5, 256)
    expected = rope.forward_native(positions, batched, shared)
    fused.accelerate(rope, kernels)
    for ours, theirs in zip(rope(positions, batched, shared), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_taken_back(kernels: Kernels) -> None:
    """What the kernels replaced can be put back, and replaced again."""
    norm, layer = RMSNorm(64).requires_grad_(False), linear_layer(UnquantizedLinearMethod)
    method = layer.quant_method
    acceleration = fused.accelerate(nn.ModuleList([norm, layer]), kernels)
    ours = norm._forward_method
    acceleration.undo()
    assert norm._forward_method is None
    assert layer.quant_method is method
    acceleration.apply()
    assert norm._forward_method is ours
    assert layer.quant_method is not method


@pytest.mark.parametrize("method", [UnquantizedLinearMethod, UnquantizedEmbeddingMethod])
def test_products(kernels: Kernels, method: type) -> None:
    """Linear layers and LM heads multiply on the kernels, and follow a weight update."""
    layer, x = linear_layer(method), torch.randn(5, 64)
    fused.accelerate(layer, kernels)
    assert type(layer.quant_method) is not method
    assert isinstance(layer.quant_method, method)
    for _ in range(2):
        exact = x.double() @ layer.weight.double().T
        assert relative_error(layer.quant_method.apply(layer, x), exact) < 2e-6
        layer.weight.data.copy_(torch.randn(48, 64))


def test_what_the_kernels_do_not_serve_is_left_alone(kernels: Kernels) -> None:
    """Half-precision weights, a chosen forward and changed norms keep SGLang's own path."""
    half = linear_layer(UnquantizedLinearMethod).half()
    pinned = RMSNorm(64, force_native=True)
    changed = RMSNorm(64, cast_x_before_out_mul=True)
    before = pinned._forward_method
    fused.accelerate(nn.ModuleList([half, pinned, changed]), kernels)
    assert type(half.quant_method) is UnquantizedLinearMethod
    assert pinned._forward_method is before
    assert changed._forward_method is None


def test_half_precision_input(kernels: Kernels) -> None:
    """An input of another type than the weights goes to torch, which has its own opinion."""
    layer = linear_layer(UnquantizedLinearMethod)
    fused.accelerate(layer, kernels)
    with pytest.raises(RuntimeError, match="dtype"):
        layer.quant_method.apply(layer, torch.randn(5, 64).half())
    assert layer.quant_method.apply(layer, torch.randn(2, 5, 64)).shape == (2, 5, 48)
