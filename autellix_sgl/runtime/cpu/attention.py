"""The attention backend SGLang calls: a step's metadata in, the kernels out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.mem_cache.memory_pool import KVWriteLoc, MHATokenToKVPool
from torch import Tensor

from autellix_sgl.runtime.cpu import fused, threads
from autellix_sgl.runtime.cpu.build import KernelsUnavailable, load_kernels
from autellix_sgl.runtime.cpu.fallback import TorchOps
from autellix_sgl.runtime.cpu.ops import AttentionOps
from autellix_sgl.runtime.cpu.rehearsal import rehearse

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.model_runner import ModelRunner

logger = logging.getLogger(__name__)

KERNEL_DTYPES = (torch.float32, torch.bfloat16)
MAX_HEAD_SIZE = 256


def create_backend(runner: ModelRunner) -> TorchNativeAttnBackend:
    """What SGLang's registry calls for our name: our backend, or torch's where ours cannot do.

    Which of the two is settled here, before the server is ready: by what the model's layers are,
    and then by a rehearsal, since no list of structures covers the models that are yet to come.
    """
    cores = threads.bind(runner.gpu_id)
    if cores is not None:
        logger.info("Bound to cores %s", cores)
    reason = unsupported(runner)
    if reason is None:
        backend = CpuAttnBackend(runner)
        reason = rehearse(runner, backend, backend.acceleration, unsupported_layer)
        if reason is None:
            return backend
        backend.acceleration.undo()
    logger.warning("CPU attention kernels not used: %s. Using torch_native instead.", reason)
    return TorchNativeAttnBackend(runner)


def unsupported(runner: ModelRunner) -> str | None:
    """Why our backend cannot serve this runner's model, or None if nothing speaks against it."""
    if runner.use_mla_backend:
        return "the model uses multi-head latent attention"
    if not runner.spec_algorithm.is_none():
        return "speculative decoding needs tree masks"
    if runner.dtype not in KERNEL_DTYPES or runner.kv_cache_dtype != runner.dtype:
        return f"the model is {runner.dtype} with a {runner.kv_cache_dtype} cache"
    layers = (m for m in runner.model.modules() if isinstance(m, RadixAttention))
    reasons = (unsupported_layer(runner, layer) for layer in layers)
    return next((reason for reason in reasons if reason is not None), None)


def unsupported_layer(runner: ModelRunner, layer: RadixAttention) -> str | None:
    """Why the kernels cannot compute one layer's attention, or None."""
    return _unsupported_attention(layer) or _unsupported_pool(runner.token_to_kv_pool, layer)


def _unsupported_attention(layer: RadixAttention) -> str | None:
    size = layer.qk_head_dim
    if layer.is_cross_attention or layer.attn_type is not AttentionType.DECODER:
        return "the model has attention that is not causal"
    if size != layer.v_head_dim or size % 16 or size > MAX_HEAD_SIZE:
        return f"head size {size} for keys, {layer.v_head_dim} for values"
    if layer.tp_q_head_num % layer.tp_k_head_num:
        return f"{layer.tp_q_head_num} query heads over {layer.tp_k_head_num} KV heads"
    if layer.scaling is None or layer.scaling <= 0:
        return f"scores are scaled by {layer.scaling}"
    if layer.logit_cap and layer.logit_capping_method != "tanh":
        return f"logit capping by {layer.logit_capping_method}"
    if layer.use_irope or (layer.xai_temperature_len or 0) > 0 or layer.pos_encoding_mode != "NONE":
        return "the model changes attention by position"
    return None


def _unsupported_pool(pool: Any, layer: RadixAttention) -> str | None:
    """Whether a layer's keys are where they are looked for: pools of other states raise."""
    try:
        keys = pool.get_key_buffer(layer.layer_id)
    except (AttributeError, LookupError, NotImplementedError, ValueError) as error:
        return f"no keys of layer {layer.layer_id} in a {type(pool).__name__} ({error})"
    shape = (layer.tp_k_head_num, layer.qk_head_dim)
    if tuple(keys.shape[1:]) != shape or keys.stride()[1:] != (layer.qk_head_dim, 1):
        return f"a KV pool of shape {tuple(keys.shape)}"
    return None


@dataclass(frozen=True, slots=True)
class StepMetadata:
    """What every layer of one step needs, converted once: int64 and contiguous.

    ``prefixes`` and ``counts`` are empty in a decode step. With a sliding-window pool, windowed
    layers have slots of their own: ``swa_slots`` to write, ``swa_table`` [requests, positions].
    """

    requests: Tensor
    lengths: Tensor
    prefixes: Tensor
    counts: Tensor
    slots: Tensor
    swa_slots: Tensor | None
    swa_table: Tensor | None
    swa_requests: Tensor | None


class CpuAttnBackend(TorchNativeAttnBackend):  # type: ignore[misc] # sglang is untyped
    """Paged attention on the CPU, for decoder layers with a plain key and value pool.

    SGLang calls ``init_forward_metadata`` once a step and ``forward_*`` once a layer, on the
    scheduler's thread; between the two nothing writes the request table. Models and layers also
    ask a backend for things beyond these (its pools, a window's slots), so this is torch_native
    with the computing replaced: what they find there they find here.
    """

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner)
        self.pool = self.token_to_kv_pool
        self.table = self.req_to_token_pool.req_to_token
        self.ops, self.acceleration = attention_ops(runner)
        self._plain_pool = type(self.pool) is MHATokenToKVPool
        self._step: StepMetadata | None = None
        self._said_stock = False

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        super().init_forward_metadata(forward_batch)
        requests = _index(forward_batch.req_pool_indices)
        lengths = _index(forward_batch.seq_lens)
        extends = not forward_batch.forward_mode.is_decode_or_idle()
        empty = requests[:0]
        written = forward_batch.out_cache_loc
        swa = self.use_sliding_window_kv_pool and written is not None
        self._step = StepMetadata(
            requests=requests,
            lengths=lengths,
            prefixes=_index(forward_batch.extend_prefix_lens) if extends else empty,
            counts=_index(forward_batch.extend_seq_lens) if extends else empty,
            slots=empty if written is None else _index(written),
            swa_slots=_index(self.swa_out_cache_loc) if swa else None,
            swa_table=self._swa_table(requests, lengths) if swa else None,
            swa_requests=torch.arange(len(requests)) if swa else None,
        )

    def forward_decode(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
        **options: Any,
    ) -> Tensor:
        """[requests, q_heads * head_size], whatever q's shape."""
        keys = self.pool.get_key_buffer(layer.layer_id)
        if not self._served(q, keys, options):
            stock: Tensor = super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)
            return stock
        step = self._begin(k, v, layer, save_kv_cache)
        rows = _rows(q, layer.tp_q_head_num * layer.qk_head_dim)
        out = rows.new_empty(rows.shape)
        table, requests = self._table(step, layer)
        scale, cap, window = _score_rule(layer)
        self.ops.decode(
            rows,
            out,
            keys,
            self.pool.get_value_buffer(layer.layer_id),
            table,
            requests,
            step.lengths,
            scale,
            cap,
            window,
        )
        return out

    def forward_extend(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
        **options: Any,
    ) -> Tensor:
        """[tokens, q_heads * head_size], whatever q's shape.

        torch_native returns q's shape, backends for GPUs this one, which models are written for.
        """
        keys = self.pool.get_key_buffer(layer.layer_id)
        if not self._served(q, keys, options):
            stock: Tensor = super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)
            return stock
        step = self._begin(k, v, layer, save_kv_cache)
        rows = _rows(q, layer.tp_q_head_num * layer.qk_head_dim)
        out = rows.new_empty(rows.shape)
        table, requests = self._table(step, layer)
        scale, cap, window = _score_rule(layer)
        self.ops.extend(
            rows,
            out,
            keys,
            self.pool.get_value_buffer(layer.layer_id),
            table,
            requests,
            step.prefixes,
            step.counts,
            scale,
            cap,
            window,
        )
        return out

    def support_triton(self) -> bool:
        return False

    def _served(self, q: Tensor, keys: Tensor, options: dict[str, Any]) -> bool:
        """Whether the kernels can take this call; if not, torch_native does, from the same pool."""
        for name, value in options.items():
            if value is not None:
                raise NotImplementedError(
                    f"the CPU attention backend has no {name}; use --attention-backend torch_native"
                )
        if q.dtype == keys.dtype:
            return True
        if not self._said_stock:
            self._said_stock = True
            logger.warning("Layers with %s queries over %s keys attend in torch_native.",
                           q.dtype, keys.dtype)  # fmt: skip
        return False

    def _begin(
        self, k: Tensor | None, v: Tensor | None, layer: RadixAttention, save_kv_cache: bool
    ) -> StepMetadata:
        """Write the step's keys and values, if it has any of its own; return the metadata."""
        step = self._step
        assert step is not None, "init_forward_metadata runs before the layers"
        if save_kv_cache and k is not None and v is not None:
            self._store(k, v, layer, step)
        return step

    def _store(self, k: Tensor, v: Tensor, layer: RadixAttention, step: StepMetadata) -> None:
        if self._plain_pool and k.dtype == v.dtype == self.pool.dtype:
            layer_id, width = layer.layer_id, layer.tp_k_head_num * layer.qk_head_dim
            keys, values = (
                self.pool.get_key_buffer(layer_id),
                self.pool.get_value_buffer(layer_id),
            )
            self.ops.store_kv(_rows(k, width), _rows(v, width), keys, values, step.slots)
        else:
            self.pool.set_kv_buffer(layer, KVWriteLoc(step.slots, step.swa_slots), k, v)

    def _table(self, step: StepMetadata, layer: RadixAttention) -> tuple[Tensor, Tensor]:
        """The request table for a layer, and the requests' rows in it."""
        if step.swa_table is None or not self.pool.layers_mapping[layer.layer_id][1]:
            return self.table, step.requests
        assert step.swa_requests is not None
        return step.swa_table, step.swa_requests

    def _swa_table(self, requests: Tensor, lengths: Tensor) -> Tensor:
        longest = int(lengths.max()) if len(lengths) else 0
        slots = self.table[requests, :longest].long()
        translated: Tensor = self.pool.translate_loc_from_full_to_swa(slots)
        return translated.int()


def attention_ops(runner: ModelRunner) -> tuple[AttentionOps, fused.Acceleration]:
    """The compiled kernels, with the rest of the model put on them too; torch if there are none."""
    try:
        kernels = load_kernels()
    except KernelsUnavailable as error:
        logger.warning(
            "The CPU kernels cannot be built (%s); using batched torch, which is slower. "
            "A C++ compiler and Python's headers (Debian: g++, python3-dev) would build them.",
            error,
        )
        return TorchOps(), fused.Acceleration()
    return kernels, fused.accelerate(runner.model, kernels)


def _score_rule(layer: RadixAttention) -> tuple[float, float, int]:
    """Scale, cap and window; a model's configuration may have null for no cap or window."""
    window = layer.sliding_window_size
    return layer.scaling, layer.logit_cap or 0.0, -1 if window is None else window


def _index(indices: Tensor) -> Tensor:
    return indices.to(torch.int64).contiguous()


def _rows(x: Tensor, width: int) -> Tensor:
    """x as [tokens, width]: models hand over any number of dimensions, and permuted ones."""
    rows = x.reshape(-1, width)
    return rows if rows.stride(1) == 1 else rows.contiguous()
