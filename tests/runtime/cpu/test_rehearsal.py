"""A model is tried before the server is ready, and what the kernels cannot do shows there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator
from sglang.srt.model_executor.forward_context import get_attn_backend
from torch import Tensor, nn

from autellix_sgl.runtime.cpu import attention, fused, rehearsal
from autellix_sgl.runtime.cpu.ops import Kernels
from autellix_sgl.runtime.cpu.rehearsal import TorchNative, largest_difference

HEADS, SIZE, SLOTS, VOCABULARY = 2, 32, 64, 50


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank, as SGLang says it."""
    monkeypatch.setattr(rehearsal, "get_parallel", lambda: SimpleNamespace(tp_size=1))


class Model(nn.Module):
    """One norm and one attention layer, which *hidden* keeps out of the modules."""

    def __init__(self, *, size: int = SIZE, hidden: bool = False) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embeddings = torch.randn(VOCABULARY, HEADS * size)
        self.norm = RMSNorm(HEADS * size).requires_grad_(False)
        layer = RadixAttention(HEADS, size, size**-0.5, HEADS, 0, logit_cap=3.0)
        self.layers: Any = [layer] if hidden else nn.ModuleList([layer])

    def forward(self, tokens: Tensor, positions: Tensor, batch: Any) -> Any:
        x = self.norm(self.embeddings[tokens])
        y = self.layers[0](x, x.clone(), x.flip(1), batch).view(x.shape)
        last = batch.extend_seq_lens.cumsum(0) - 1 if batch.forward_mode.is_extend() else ...
        return SimpleNamespace(next_token_logits=y[last] @ self.embeddings.T)


class FussyModel(Model):
    """A model that asks its backend for something."""

    def __init__(self, wanted: type) -> None:
        super().__init__()
        self.wanted = wanted

    def forward(self, tokens: Tensor, positions: Tensor, batch: Any) -> Any:
        assert isinstance(get_attn_backend(), self.wanted), "not what I know"
        return super().forward(tokens, positions, batch)


class Pool:
    def __init__(self, size: int) -> None:
        self.keys, self.values = torch.zeros(2, SLOTS, HEADS, size)
        self.dtype = torch.float32

    def get_key_buffer(self, layer_id: int) -> Tensor:
        return self.keys

    def get_value_buffer(self, layer_id: int) -> Tensor:
        return self.values

    def set_kv_buffer(self, layer: Any, loc: Any, k: Tensor, v: Tensor) -> None:
        self.keys[loc.loc], self.values[loc.loc] = k, v


def runner_of(model: Model, *, slots: int = SLOTS - 1) -> Any:
    pool = Pool(model.layers[0].qk_head_dim)
    return SimpleNamespace(
        device="cpu",
        gpu_id=0,
        model=model,
        dtype=torch.float32,
        kv_cache_dtype=torch.float32,
        is_generation=True,
        use_mla_backend=False,
        lora_manager=None,
        model_config=SimpleNamespace(vocab_size=VOCABULARY),
        spec_algorithm=SimpleNamespace(is_none=lambda: True),
        token_to_kv_pool=pool,
        token_to_kv_pool_allocator=TokenToKVPoolAllocator(slots, torch.float32, "cpu", pool, False),
        req_to_token_pool=SimpleNamespace(
            free_slots=[1, 2, 3], req_to_token=torch.zeros(4, 16, dtype=torch.int32)
        ),
    )


def test_a_model_the_kernels_serve(kernels: Kernels, caplog: pytest.LogCaptureFixture) -> None:
    """It gets the kernels, caps on its scores are no difference, and its pools are empty again."""
    runner = runner_of(Model())
    caplog.set_level("INFO")
    backend = attention.create_backend(runner)
    assert type(backend) is attention.CpuAttnBackend
    assert "Rehearsal: the CPU kernels differ from torch_native by" in caplog.text
    assert kernels_on(runner.model.norm)
    assert runner.model.layers[0].logit_cap == 3.0
    assert runner.token_to_kv_pool_allocator.available_size() == SLOTS - 1
    assert not runner.req_to_token_pool.req_to_token.any()


def test_wrong_results(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the numbers differ the model runs as SGLang has it, its modules too, and it is said."""

    class Wrong(attention.CpuAttnBackend):
        def forward_decode(self, *args: Any, **kwargs: Any) -> Tensor:
            return 1.1 * super().forward_decode(*args, **kwargs)

    monkeypatch.setattr(attention, "CpuAttnBackend", Wrong)
    runner = runner_of(Model())
    assert type(attention.create_backend(runner)).__name__ == "TorchNativeAttnBackend"
    assert not kernels_on(runner.model.norm)
    (line,) = [r.getMessage() for r in caplog.records if "Using torch_native" in r.getMessage()]
    assert "differ from torch_native's by 1.0e-01" in line


def kernels_on(norm: RMSNorm) -> bool:
    return norm._forward_method is not None and norm._forward_method.__module__ == fused.__name__


def test_a_model_that_fails_on_them(caplog: pytest.LogCaptureFixture) -> None:
    """What a model misses in our backend is the reason for torch_native, not a failed request."""
    backend = attention.create_backend(runner_of(FussyModel(TorchNative)))
    assert type(backend).__name__ == "TorchNativeAttnBackend"
    assert "fails on them in a rehearsal (AssertionError: not what I know" in caplog.text


def test_a_model_that_fails_on_torch_native() -> None:
    """The kernels serve what SGLang's own backend cannot."""
    runner = runner_of(FussyModel(attention.CpuAttnBackend))
    assert type(attention.create_backend(runner)) is attention.CpuAttnBackend


def test_layers_that_are_no_modules(caplog: pytest.LogCaptureFixture) -> None:
    """A layer is judged when it is used, wherever the model keeps it."""
    assert type(attention.create_backend(runner_of(Model(hidden=True)))) is attention.CpuAttnBackend
    backend = attention.create_backend(runner_of(Model(size=40, hidden=True)))
    assert type(backend).__name__ == "TorchNativeAttnBackend"
    assert "head size 40" in caplog.text


def test_no_room_for_a_rehearsal(caplog: pytest.LogCaptureFixture) -> None:
    """Without a rehearsal there are no kernels, and that is said."""
    backend = attention.create_backend(runner_of(Model(), slots=4))
    assert type(backend).__name__ == "TorchNativeAttnBackend"
    assert "no rehearsal can be held (ValueError: the KV pool has no room" in caplog.text


def test_ranks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that was content uses torch_native if another one does."""

    def gather(reasons: list[str | None], reason: str | None, group: str) -> None:
        assert group == "ranks"
        reasons[:] = [reason, "the second rank's"]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    runner = runner_of(Model())
    two = SimpleNamespace(tp_size=2, tp_group=SimpleNamespace(cpu_group="ranks"))
    monkeypatch.setattr(rehearsal, "get_parallel", lambda: two)
    reason = rehearsal.rehearse(runner, TorchNative(runner), fused.Acceleration(), lambda *_: None)
    assert reason == "the second rank's"


def test_largest_difference() -> None:
    """Of the rows with numbers the worst counts; what is no number on our side alone is wrong."""
    nothing = torch.zeros(2, 3)
    one = torch.ones(2, 3)
    assert largest_difference(one, nothing) == 0.0
    assert largest_difference(one, torch.full((2, 3), float("nan"))) == 0.0
    assert largest_difference(torch.full((2, 3), float("nan")), one) == float("inf")
    assert largest_difference(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [2.0]])) == 0.5
