"""The kernels besides attention, and the threads under all of them."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from autellix_sgl.runtime.cpu.ops import Kernels
from tests.runtime.cpu.reference import BOUNDS, relative_error

DTYPES = [torch.float32, torch.bfloat16]
EPS = 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 13, 24, 25, 97, 500])
@pytest.mark.parametrize(("n", "k"), [(1, 32), (64, 576), (100, 200), (70, 33), (576, 1536)])
def test_linear(kernels: Kernels, dtype: torch.dtype, rows: int, n: int, k: int) -> None:
    """A product is exact for any number of rows, columns and terms, with a bias and without."""
    torch.manual_seed(rows)
    x, w, bias = (torch.randn(s).to(dtype) for s in [(rows, k), (n, k), (n,)])
    exact = linear(x.double(), w.double())
    assert relative_error(kernels.linear(x, w, None), exact) < BOUNDS[dtype]
    with_bias = kernels.linear(x, w, bias)
    assert relative_error(with_bias, exact + bias.double()) < BOUNDS[dtype]


def test_linear_takes_strided_rows(kernels: Kernels) -> None:
    """Rows of x may lie apart, as the halves of a projection do."""
    x, w = torch.randn(40, 128), torch.randn(48, 64)
    for part in (x[:3, 64:], x[:, :64]):
        assert relative_error(kernels.linear(part, w, None), part.double() @ w.double().T) < 2e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 64), (7, 576), (300, 200), (5, 33)])
def test_norm(kernels: Kernels, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """The norm is exact, and with a residual it is that of the sum, which is written back."""
    x, residual = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    weight = torch.randn(shape[1]).to(dtype)

    def norm(v: Tensor) -> Tensor:
        return v / (v.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight.double()

    assert relative_error(kernels.norm(x, None, weight, EPS), norm(x.double())) < BOUNDS[dtype]
    total = x.double() + residual.double()
    assert relative_error(kernels.norm(x, residual, weight, EPS), norm(total)) < BOUNDS[dtype]
    assert relative_error(residual, total) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 16), (6, 3072), (200, 66)])
def test_swiglu(kernels: Kernels, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """SwiGLU is exact, also where silu saturates."""
    x = (torch.randn(shape) * 30).to(dtype)
    gate, up = x.double().chunk(2, dim=-1)
    assert relative_error(kernels.swiglu(x), silu(gate) * up) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize("rotary_dim", [64, 20])
def test_rotate(kernels: Kernels, dtype: torch.dtype, neox: bool, rotary_dim: int) -> None:
    """Rope rotates q and k in place, in views of one projection, and leaves the rest alone."""
    size, tokens = 64, 9
    projection = torch.randn(tokens, 5 * size).to(dtype)
    before = projection.clone()
    angles = torch.rand(50, rotary_dim // 2) * 6
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)
    positions = torch.randint(50, (tokens,))
    kernels.rotate(
        positions,
        projection[:, : 3 * size],
        projection[:, 3 * size : 4 * size],
        cos_sin,
        size,
        neox,
    )
    heads = before.double().view(tokens, 5, size).clone()
    cos, sin = cos_sin[positions].double().unsqueeze(1).chunk(2, dim=-1)
    half = rotary_dim // 2
    pairs = heads[:, :4, :rotary_dim]
    a, b = (pairs[..., :half], pairs[..., half:]) if neox else (pairs[..., ::2], pairs[..., 1::2])
    a, b = a * cos - b * sin, b * cos + a * sin
    heads[:, :4, :rotary_dim] = (
        torch.cat([a, b], dim=-1) if neox else torch.stack([a, b], dim=-1).flatten(-2)
    )
    assert relative_error(projection, heads.flatten(1)) < BOUNDS[dtype]
    assert torch.equal(projection[:, 4 * size :], before[:, 4 * size :])


def test_concurrent_callers(kernels: Kernels) -> None:
    """Threads that call kernels at the same time each get their own result."""
    weights = [torch.randn(300, 64) for _ in range(4)]
    x = torch.randn(5, 64)
    wrong: list[int] = []

    def work(i: int) -> None:
        exact = x.double() @ weights[i].double().T
        if any(
            relative_error(kernels.linear(x, weights[i], None), exact) > 2e-6 for _ in range(200)
        ):
            wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(weights))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_more_tasks_than_a_job_holds(kernels: Kernels) -> None:
    """A product of millions of columns runs as more tasks than one job of the threads can count."""
    columns = 64 * 0xFFFF + 1_000
    x, w = torch.ones(1, 2), torch.arange(columns).float().view(-1, 1).repeat(1, 2)
    assert torch.equal(kernels.linear(x, w, None)[0], w.sum(1))


def test_thread_count_of_one(kernels: Kernels) -> None:
    """With torch held to one thread the kernels run on the caller alone, and exactly."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, w = torch.randn(3, 64), torch.randn(500, 64)
        assert relative_error(kernels.linear(x, w, None), x.double() @ w.double().T) < 2e-6
    finally:
        torch.set_num_threads(threads)
