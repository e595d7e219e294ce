"""The operations the backend needs of whoever computes them: compiled kernels or torch."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class AttentionOps(Protocol):
    """Attention over a paged pool, and the write into it.

    Shapes: ``q`` and ``out`` [tokens, q_heads * head_size]; ``k`` and ``v`` [tokens, kv_heads,
    head_size]; ``keys`` and ``values``, the pool, [slots, kv_heads, head_size]; ``table`` int32
    [requests, positions], position to slot; every index int64, contiguous, on the CPU.
    ``scale`` multiplies q.k; ``cap`` > 0 bounds scores by cap * tanh(score / cap); ``window`` >= 0
    lets a query at position p see keys p - window .. p. ``out`` is written in place.
    """

    def store_kv(self, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Write each token's key and value to its slot."""

    def decode(
        self,
        q: Tensor,
        out: Tensor,
        keys: Tensor,
        values: Tensor,
        table: Tensor,
        requests: Tensor,
        lengths: Tensor,
        scale: float,
        cap: float,
        window: int,
    ) -> None:
        """One query a request, at its last position; a request of length 0 gets zeros."""

    def extend(
        self,
        q: Tensor,
        out: Tensor,
        keys: Tensor,
        values: Tensor,
        table: Tensor,
        requests: Tensor,
        prefixes: Tensor,
        counts: Tensor,
        scale: float,
        cap: float,
        window: int,
    ) -> None:
        """Causal attention of ``counts[i]`` new tokens after ``prefixes[i]`` cached ones."""


class Kernels(AttentionOps, Protocol):
    """The compiled kernels, which also have the fused operations."""

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """x [m, k] times w [n, k] transposed, plus bias [n]."""

    def norm(self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """RMS norm of x, or of residual + x, which is then also written to ``residual``."""

    def swiglu(self, x: Tensor) -> Tensor:
        """silu(left half) * right half of the last dimension."""

    def rotate(
        self, positions: Tensor, q: Tensor, k: Tensor, cos_sin: Tensor, head_size: int, neox: bool
    ) -> None:
        """Rotary embedding of q and k, in place; cos_sin [positions, rotary_dim]."""
