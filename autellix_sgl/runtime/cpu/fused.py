"""The kernels for the rest of a loaded model: norm, rope, SwiGLU and matrix products.

``accelerate`` changes the instances of one model, by what SGLang offers for it: a fused operator
calls its ``_forward_method``, which an instance may set, and a linear layer or LM head calls its
``quant_method``. Weights stay as they are, so they can still be updated, shared or tied, and any
call a kernel cannot serve goes to SGLang's own method.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.activation import SiluAndMul
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.quantization.unquant import (
    UnquantizedEmbeddingMethod,
    UnquantizedLinearMethod,
)
from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
from sglang.srt.runtime_context import get_exec
from torch import Tensor, nn
from torch.nn.functional import linear

from autellix_sgl.runtime.cpu.ops import Kernels

logger = logging.getLogger(__name__)

DTYPES = (torch.float32, torch.bfloat16)

# Where the CPU has AMX tiles, torch's products with more rows than this beat the kernels', which
# have vector instructions only. Without AMX the kernels take every product: alone on a machine they
# run at 0.9 to 1x of torch's in bf16 and 2x in fp32, and on a busy one they do not stall (pool.h).
MAX_ROWS_WITH_AMX = 24


@dataclass(frozen=True, slots=True)
class Change:
    """An attribute of a module that a kernel stands behind instead of what SGLang put there."""

    module: nn.Module
    attribute: str
    ours: Any
    theirs: Any


@dataclass(frozen=True, slots=True)
class Acceleration:
    """What `accelerate` changed in a model, and can be taken back."""

    changes: tuple[Change, ...] = ()

    def apply(self) -> None:
        for change in self.changes:
            setattr(change.module, change.attribute, change.ours)

    def undo(self) -> None:
        for change in self.changes:
            setattr(change.module, change.attribute, change.theirs)


def accelerate(model: nn.Module, kernels: Kernels) -> Acceleration:
    """Put every module of *model* that a kernel can serve on it; the rest stays SGLang's."""
    linear_method = KernelLinearMethod(kernels)
    head_method = KernelHeadMethod(kernels)
    changes: list[Change] = []
    for module in model.modules():
        forward = _fused_forward(module, kernels)
        if forward is not None:
            changes.append(Change(module, "_forward_method", forward, None))
        elif _is_plain(module, UnquantizedLinearMethod):
            changes.append(Change(module, "quant_method", linear_method, module.quant_method))
        elif _is_plain(module, UnquantizedEmbeddingMethod) and not _wants_fp32_head(model):
            changes.append(Change(module, "quant_method", head_method, module.quant_method))
    acceleration = Acceleration(tuple(changes))
    acceleration.apply()
    counts = Counter(type(change.module).__name__ for change in changes)
    logger.info("On the CPU kernels: %s", ", ".join(f"{n} {name}" for name, n in counts.items()))
    return acceleration


def _fused_forward(module: nn.Module, kernels: Kernels) -> Callable[..., Any] | None:
    """The fused forward of a norm, rope or SwiGLU module, None if the kernels have none for it."""
    if getattr(module, "_forward_method", None) is not None:
        return None  # upstream chose a path for this instance
    if type(module) is SiluAndMul:
        return _swiglu(module, kernels)
    if type(module) is RMSNorm and _is_plain_norm(module):
        return _norm(module, kernels)
    if isinstance(module, RotaryEmbedding) and _is_plain_rope(module):
        return _rope(module, kernels)
    return None


def _is_plain_norm(norm: RMSNorm) -> bool:
    changed = (
        norm.variance_size_override is not None
        or norm.cast_x_before_out_mul
        or norm.fp32_residual
        or norm.override_orig_dtype is not None
    )
    return not changed and norm.weight.dtype in DTYPES and norm.weight.is_cpu


def _is_plain_rope(rope: RotaryEmbedding) -> bool:
    """Subclasses that only compute the cache differently (scaled ropes) rotate the same way."""
    own = type(rope)
    return own.forward_native is RotaryEmbedding.forward_native and not hasattr(
        rope, "sin_cos_cache"
    )


def _is_plain(module: nn.Module, method: type) -> bool:
    weight = getattr(module, "weight", None)
    return (
        type(getattr(module, "quant_method", None)) is method
        and isinstance(weight, Tensor)
        and weight.is_cpu
        and weight.dim() == 2
        and weight.dtype in DTYPES
    )


def _wants_fp32_head(model: nn.Module) -> bool:
    """Whether logits are to be computed in fp32, which upstream does only for its own method."""
    config = getattr(model, "config", None)
    features = get_exec().features
    return bool(features.enable_fp32_lm_head or getattr(config, "enable_lm_head_fp32", False))


def _swiglu(module: SiluAndMul, kernels: Kernels) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if x.dtype not in DTYPES or not x.is_contiguous():
            native: Tensor = module.forward_native(x)
            return native
        return kernels.swiglu(x)

    return forward


def _norm(module: RMSNorm, kernels: Kernels) -> Callable[..., Any]:
    weight, eps, dtype = module.weight, module.variance_epsilon, module.weight.dtype

    def forward(
        x: Tensor,
        residual: Tensor | None = None,
        post_residual_addition: Tensor | None = None,
        quant_linear: nn.Module | None = None,
    ) -> Any:
        served = x.dtype == dtype and x.stride(-1) == 1 and (x.dim() == 2 or x.is_contiguous())
        if residual is not None:
            served = served and residual.dtype == dtype and residual.is_contiguous()
        if not served or post_residual_addition is not None or x.numel() == 0:
            return module.forward_native(x, residual, post_residual_addition, quant_linear)
        out = kernels.norm(x, residual, weight, eps)
        return out if residual is None else (out, residual)

    return forward


def _rope(module: RotaryEmbedding, kernels: Kernels) -> Callable[..., Any]:
    def forward(
        positions: Tensor,
        query: Tensor,
        key: Tensor,
        offsets: Tensor | None = None,
        fused_set_kv_buffer_arg: Any = None,
    ) -> tuple[Tensor, Tensor]:
        cache = module.cos_sin_cache
        served = (
            offsets is None
            and fused_set_kv_buffer_arg is None
            and positions.dim() == 1
            and positions.dtype == torch.int64
            and query.dtype == key.dtype
            and query.dtype in DTYPES
            and cache.dtype in (query.dtype, torch.float32)
            and _has_rows(query, len(positions))
            and _has_rows(key, len(positions))
        )
        if not served:
            rotated: tuple[Tensor, Tensor] = module.forward_native(
                positions, query, key, offsets, fused_set_kv_buffer_arg
            )
            return rotated
        kernels.rotate(positions, query, key, cache, module.head_size, module.is_neox_style)
        return query, key

    return forward


def _has_rows(x: Tensor, tokens: int) -> bool:
    """Whether x is [tokens, width] or [tokens, heads, size], each token's row in one piece.

    Rows are rotated in place, so no two tokens may share one, as they do in an expanded tensor.
    """
    if x.shape[0] != tokens:
        return False
    if x.dim() == 2:
        return bool(x.stride(1) == 1 and x.stride(0) >= x.shape[1])
    return bool(x.dim() == 3 and x.is_contiguous())


class Products:
    """Chooses between the kernel and torch for a product with unquantized weights."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self._linear = kernels.linear
        self._max_rows = MAX_ROWS_WITH_AMX if torch.cpu._is_amx_tile_supported() else sys.maxsize

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [rows, k] times weight [n, k] transposed, plus bias [n]."""
        served = (
            x.dim() == 2
            and 0 < x.shape[0] <= self._max_rows
            and x.dtype == weight.dtype
            and x.dtype in DTYPES
            and x.stride(1) == 1
            and weight.is_contiguous()
            and (bias is None or bias.dtype == weight.dtype)
        )
        return self._linear(x, weight, bias) if served else linear(x, weight, bias)


class KernelLinearMethod(Products, UnquantizedLinearMethod):  # type: ignore[misc]
    """A linear layer's product."""

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.product(x, layer.weight, bias)


class KernelHeadMethod(Products, UnquantizedEmbeddingMethod):  # type: ignore[misc]
    """An LM head's product; SGLang's logits processor calls it for the rows it needs only.

    ``bias`` is not added, as upstream does not add it for an unquantized head.
    """

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight: Tensor = layer.weight
        return self.product(x.to(weight.dtype), weight, None)
