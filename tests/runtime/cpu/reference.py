"""Paged attention in float64, one query at a time, and random cases for it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Largest relative error (Frobenius norm) against float64: a few roundings of the result's type.
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


@dataclass(frozen=True, slots=True)
class Case:
    """A batch: request i has ``counts[i]`` new tokens after ``prefixes[i]`` cached ones."""

    prefixes: tuple[int, ...]
    counts: tuple[int, ...]
    kv_heads: int
    group: int
    head_size: int
    page_size: int = 1
    window: int = -1
    cap: float = 0.0
    dtype: torch.dtype = torch.float32
    seed: int = 0

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(p + c for p, c in zip(self.prefixes, self.counts, strict=True))

    @property
    def scale(self) -> float:
        return 1.0 / math.sqrt(self.head_size)


@dataclass(frozen=True, slots=True)
class Batch:
    """A case's tensors, laid out as SGLang has them: q, k, v are views of one projection."""

    q: Tensor
    k: Tensor
    v: Tensor
    keys: Tensor
    values: Tensor
    table: Tensor
    requests: Tensor
    slots: Tensor


def make_batch(case: Case) -> Batch:
    """Random tensors for *case*, with the new tokens' keys and values not yet in the pool."""
    torch.manual_seed(case.seed)
    requests = len(case.counts)
    longest = max(case.lengths)
    pages = -(-max(longest, 1) // case.page_size)
    order = torch.randperm(requests * pages)[: requests * pages].view(requests, pages)
    table = (order[..., None] * case.page_size + torch.arange(case.page_size)).flatten(1).int()
    heads, size = case.kv_heads, case.head_size
    pool = (requests * pages * case.page_size, heads, size)
    widths = [heads * case.group * size, heads * size, heads * size]
    projection = torch.randn(sum(case.counts), sum(widths)).to(case.dtype)
    q, k, v = projection.split(widths, dim=1)
    rows = [
        table[i, p : p + c].long()
        for i, (p, c) in enumerate(zip(case.prefixes, case.counts, strict=True))
    ]
    return Batch(
        q=q,
        k=k.view(-1, heads, size),
        v=v.view(-1, heads, size),
        keys=torch.randn(pool).to(case.dtype),
        values=torch.randn(pool).to(case.dtype),
        table=torch.cat([table, torch.zeros(3, table.shape[1], dtype=torch.int32)]),
        requests=torch.arange(requests),
        slots=torch.cat(rows),
    )


def attend(case: Case, batch: Batch) -> Tensor:
    """The exact result, [tokens, heads, head_size] in float64, with the new tokens in the pool."""
    results = [
        _attend_request(case, batch, request, prefix, count)
        for request, (prefix, count) in enumerate(zip(case.prefixes, case.counts, strict=True))
    ]
    return torch.cat(results)


def _attend_request(case: Case, batch: Batch, request: int, prefix: int, count: int) -> Tensor:
    first = sum(case.counts[:request])
    slots = batch.table[batch.requests[request], : prefix + count].long()
    heads = case.kv_heads * case.group
    q = batch.q[first : first + count].double().view(count, heads, case.head_size)
    k = batch.keys[slots].double().repeat_interleave(case.group, 1)
    v = batch.values[slots].double().repeat_interleave(case.group, 1)
    scores = torch.einsum("thd,nhd->htn", q, k) * case.scale
    if case.cap > 0:
        scores = case.cap * torch.tanh(scores / case.cap)
    position = prefix + torch.arange(count)[:, None]
    key = torch.arange(prefix + count)
    seen = key <= position
    if case.window >= 0:
        seen &= key >= position - case.window
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("htn,nhd->thd", weights, v)


def relative_error(found: Tensor, exact: Tensor) -> float:
    if exact.numel() == 0:
        return 0.0
    return float((found.double().view_as(exact) - exact).norm() / exact.norm())


def random_case(rng: random.Random, seed: int) -> Case:
    """Any shape the backend serves: half the cases decode, half extend, some rows empty."""
    requests = rng.randint(1, 6)
    decode = rng.random() < 0.5
    longest = rng.choice([3, 40, 300])
    case = Case(
        prefixes=tuple(rng.randint(0, longest) for _ in range(requests)),
        counts=tuple(1 if decode else rng.choice([0, 1, 2, 3, 17, 70]) for _ in range(requests)),
        kv_heads=rng.choice([1, 2, 3]),
        group=rng.choice([1, 2, 3, 4, 7, 8]),
        head_size=16 * rng.randint(1, 16),
        page_size=rng.choice([1, 16]),
        window=rng.choice([-1, -1, 0, 5, 64]),
        cap=rng.choice([0.0, 0.0, 10.0]),
        dtype=rng.choice([torch.float32, torch.bfloat16]),
        seed=seed,
    )
    return case if sum(case.counts) else replace(case, counts=(1,) * requests)
