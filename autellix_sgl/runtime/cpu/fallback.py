"""The attention operations in torch, for a machine that cannot compile the kernels.

A layer is one scaled-dot-product call over the batch, padded to its longest request, where SGLang's
``torch_native`` makes one call a request. It copies the keys and values it reads, so it is slower
than the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class TorchOps:
    """See :class:`~autellix_sgl.runtime.cpu.ops.AttentionOps`."""

    def store_kv(self, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        keys[slots] = k.view(-1, *keys.shape[1:])
        values[slots] = v.view(-1, *values.shape[1:])

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
        heads = q.reshape(q.shape[0], 1, -1, keys.shape[2])
        positions = (lengths - 1)[:, None]
        attended = _attend(
            heads, positions, keys, values, _slots(table, requests, lengths), scale, cap, window
        )
        attended[lengths <= 0] = 0
        out.view(attended.shape).copy_(attended)

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
        total = int(counts.sum())
        out[total:] = 0
        if total == 0:
            return
        offsets = torch.arange(int(counts.max()))
        real = offsets < counts[:, None]  # [requests, width]: the padded batch's own tokens
        heads = q.new_zeros(*real.shape, q[0].numel() // keys.shape[2], keys.shape[2])
        heads[real] = q[:total].reshape(total, -1, keys.shape[2])
        slots = _slots(table, requests, prefixes + counts)
        attended = _attend(
            heads, prefixes[:, None] + offsets, keys, values, slots, scale, cap, window
        )
        out[:total] = attended[real].flatten(1)


def _slots(table: Tensor, requests: Tensor, lengths: Tensor) -> Tensor:
    """Slots of every request's positions, [requests, longest]; past a request's end, any slot."""
    longest = max(1, int(lengths.max()))
    past_end = torch.arange(longest) >= lengths[:, None]
    return table[requests, :longest].long().masked_fill(past_end, 0)


def _attend(
    q: Tensor,
    positions: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    scale: float,
    cap: float,
    window: int,
) -> Tensor:
    """q [requests, width, heads, d] at positions [requests, width] over the keys at slots.

    Returns [requests, width, heads, d]. A padded query attends to something, never to nothing: its
    result is not used, but a row without keys would be NaN.
    """
    key_positions = torch.arange(slots.shape[1])
    seen = key_positions <= positions[..., None].clamp(min=0)
    if window >= 0:
        seen &= key_positions >= (positions - window)[..., None]
    q, k, v = (x.transpose(1, 2) for x in (q, keys[slots], values[slots]))
    mask = seen[:, None]
    if cap <= 0:
        attended = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    else:
        group = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
        scores = cap * torch.tanh((q.float() @ k.float().transpose(-1, -2)) * (scale / cap))
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        attended = (weights @ v.float()).to(q.dtype)
    return attended.transpose(1, 2)
