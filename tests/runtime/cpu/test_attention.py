"""Paged attention against float64."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from autellix_sgl.runtime.cpu.ops import AttentionOps, Kernels
from tests.runtime.cpu.reference import (
    BOUNDS,
    Batch,
    Case,
    attend,
    make_batch,
    random_case,
    relative_error,
)

DTYPES = [torch.float32, torch.bfloat16]
BASE = Case(prefixes=(0, 5, 300), counts=(1, 70, 33), kv_heads=3, group=3, head_size=64)
FUZZ_CASES = 1_000
CASES_PER_TEST = 100


def run(ops: AttentionOps, case: Case, batch: Batch) -> torch.Tensor:
    """Store the new tokens, then attend to them: as a decode step if every request has one."""
    out = torch.full((batch.q.shape[0], batch.q.shape[1]), float("nan"), dtype=case.dtype)
    pool = (batch.keys, batch.values, batch.table, batch.requests)
    rule = (case.scale, case.cap, case.window)
    ops.store_kv(batch.k, batch.v, batch.keys, batch.values, batch.slots)
    if set(case.counts) == {1}:
        ops.decode(batch.q, out, *pool, torch.tensor(case.lengths), *rule)
    else:
        counts, prefixes = torch.tensor(case.counts), torch.tensor(case.prefixes)
        ops.extend(batch.q, out, *pool, prefixes, counts, *rule)
    return out


def check(ops: AttentionOps, case: Case) -> None:
    batch = make_batch(case)
    found = run(ops, case, batch)
    error = relative_error(found, attend(case, batch))
    assert error <= BOUNDS[case.dtype], f"{case}: relative error {error}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_size", [16, 80, 128, 256])
@pytest.mark.parametrize(("kv_heads", "group"), [(4, 1), (2, 4), (1, 8)])
def test_heads(
    ops: AttentionOps, dtype: torch.dtype, head_size: int, kv_heads: int, group: int
) -> None:
    """Multi-head, grouped-query and multi-query attention are exact at any head size."""
    shape = replace(BASE, head_size=head_size, kv_heads=kv_heads, group=group, dtype=dtype)
    check(ops, shape)
    check(ops, replace(shape, counts=(1, 1, 1)))


@pytest.mark.parametrize("counts", [(1, 70, 33), (1, 1, 1)])
@pytest.mark.parametrize(("window", "cap"), [(0, 0.0), (7, 0.0), (200, 0.0), (-1, 5.0), (30, 5.0)])
def test_score_rules(ops: AttentionOps, counts: tuple[int, ...], window: int, cap: float) -> None:
    """A sliding window hides older keys and a cap bounds scores, in decode and extend."""
    check(ops, replace(BASE, counts=counts, window=window, cap=cap))


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_context_is_split_over_threads(ops: AttentionOps, dtype: torch.dtype) -> None:
    """One request's long context gives the same result as if one thread had read it."""
    check(ops, Case((3_000,), (1,), kv_heads=1, group=2, head_size=64, dtype=dtype))


def test_empty_extend(ops: AttentionOps) -> None:
    """A request without new tokens takes no row and changes nobody's."""
    check(ops, replace(BASE, prefixes=(4, 9, 0), counts=(0, 3, 0)))


def test_prefix_of_zero_and_page_boundaries(ops: AttentionOps) -> None:
    """Requests that start, end and continue exactly at a page boundary are exact."""
    check(ops, replace(BASE, prefixes=(0, 16, 15), counts=(16, 16, 1), page_size=16))


def test_padding_rows_are_zero(ops: AttentionOps) -> None:
    """A decode row without keys and extend rows past the last segment come out as zeros."""
    batch = make_batch(replace(BASE, counts=(1, 1, 1)))
    out = torch.full_like(batch.q, float("nan")).contiguous()
    pool = (batch.keys, batch.values, batch.table, batch.requests)
    ops.decode(batch.q, out, *pool, torch.tensor([3, 0, 2]), 1.0, 0.0, -1)
    assert not out.isnan().any()
    assert not out[1].any()
    out.fill_(float("nan"))
    ops.extend(batch.q, out, *pool, torch.zeros(3).long(), torch.tensor([1, 0, 1]), 1.0, 0.0, -1)
    assert not out.isnan().any()
    assert not out[2].any()


def test_extreme_scores(ops: AttentionOps) -> None:
    """Scores far beyond what exp can take still give a softmax."""
    case = replace(BASE, seed=7)
    batch = make_batch(case)
    batch.q.mul_(1_000)
    found = run(ops, case, batch)
    assert relative_error(found, attend(case, batch)) < 1e-4


def test_bad_arguments_are_refused(kernels: Kernels) -> None:
    """A kernel checks what it would otherwise read out of bounds."""
    case = replace(BASE, counts=(1, 1, 1))
    batch = make_batch(case)
    out = torch.empty(3, batch.q.shape[1])
    pool = (batch.keys, batch.values, batch.table, batch.requests)
    lengths = torch.tensor(case.lengths)
    with pytest.raises(RuntimeError, match="out of range"):
        kernels.decode(batch.q, out, *pool, lengths + 10_000, 1.0, 0.0, -1)
    with pytest.raises(RuntimeError, match="int64"):
        kernels.decode(batch.q, out, *pool, lengths.int(), 1.0, 0.0, -1)
    with pytest.raises(RuntimeError, match="same dtype"):
        kernels.decode(batch.q.bfloat16(), out.bfloat16(), *pool, lengths, 1.0, 0.0, -1)


@pytest.mark.parametrize("block", range(FUZZ_CASES // CASES_PER_TEST))
def test_random_cases(kernels: Kernels, block: int) -> None:
    """Any batch of any shape the backend serves is within the bounds of its type."""
    for seed in range(block * CASES_PER_TEST, (block + 1) * CASES_PER_TEST):
        check(kernels, random_case(random.Random(seed), seed))
