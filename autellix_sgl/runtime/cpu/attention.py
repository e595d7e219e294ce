"""The attention backend SGLang calls: a step's metadata in, the kernels out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.mem_cache.memory_pool import KVWriteLoc, MHATokenToKVPool
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool
from torch import Tensor

from autellix_sgl.runtime.cpu import fused, threads
from autellix_sgl.runtime.cpu.build import KernelsUnavailable, load_kernels
from autellix_sgl.runtime.cpu.fallback import TorchOps
from autellix_sgl.runtime.cpu.ops import AttentionOps

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.model_runner import ModelRunner

logger = logging.getLogger(__name__)

KERNEL_DTYPES = (torch.float32, torch.bfloat16)
MAX_HEAD_SIZE = 256


def create_backend(runner: ModelRunner) -> AttentionBackend:
    """What SGLang's registry calls for our name: our backend, or torch's where ours cannot do."""
    cores = threads.bind(runner.gpu_id)
    if cores is not None:
        logger.info("Bound to cores %s", cores)
    reason = unsupported(runner)
    if reason is not None:
        from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

        logger.warning("CPU attention kernels not used: %s. Using torch_native instead.", reason)
        return TorchNativeAttnBackend(runner)
    return CpuAttnBackend(runner)


def unsupported(runner: ModelRunner) -> str | None:
    """Why our backend cannot serve this runner's model, or None if it can."""
    if runner.use_mla_backend:
        return "the model uses multi-head latent attention"
    if not runner.spec_algorithm.is_none():
        return "speculative decoding needs tree masks"
    if runner.dtype not in KERNEL_DTYPES or runner.kv_cache_dtype != runner.dtype:
        return f"the model is {runner.dtype} with a {runner.kv_cache_dtype} cache"
    pool = runner.token_to_kv_pool
    layers = [m for m in runner.model.modules() if isinstance(m, RadixAttention)]
    if not layers:
        return "the model has no attention layers of SGLang's"
    reasons = (_unsupported_layer(layer) or _unsupported_pool(pool, layer) for layer in layers)
    return next((reason for reason in reasons if reason is not None), None)


def _unsupported_layer(layer: RadixAttention) -> str | None:
    size = layer.qk_head_dim
    if layer.is_cross_attention or layer.attn_type is not AttentionType.DECODER:
        return "the model has attention that is not causal"
    if size != layer.v_head_dim or size % 16 or size > MAX_HEAD_SIZE:
        return f"head size {size} for keys, {layer.v_head_dim} for values"
    if layer.tp_q_head_num % layer.tp_k_head_num:
        return f"{layer.tp_q_head_num} query heads over {layer.tp_k_head_num} KV heads"
    if layer.logit_cap and layer.logit_capping_method != "tanh":
        return f"logit capping by {layer.logit_capping_method}"
    if layer.use_irope or layer.xai_temperature_len > 0 or layer.pos_encoding_mode != "NONE":
        return "the model changes attention by position"
    return None


def _unsupported_pool(pool: Any, layer: RadixAttention) -> str | None:
    keys = pool.get_key_buffer(layer.layer_id)
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


class CpuAttnBackend(AttentionBackend):  # type: ignore[misc] # sglang is untyped
    """Paged attention on the CPU, for decoder layers with a plain key and value pool.

    SGLang calls ``init_forward_metadata`` once a step and ``forward_*`` once a layer, on the
    scheduler's thread; between the two nothing writes the request table.
    """

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__()
        self.device = runner.device
        self.pool = runner.token_to_kv_pool
        self.table = runner.req_to_token_pool.req_to_token
        self.ops = attention_ops(runner)
        self._swa = isinstance(self.pool, SWAKVPool) and self.pool.swa_layer_nums > 0
        self._plain_pool = type(self.pool) is MHATokenToKVPool
        self._step: StepMetadata | None = None

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        requests = _index(forward_batch.req_pool_indices)
        lengths = _index(forward_batch.seq_lens)
        slots = _index(forward_batch.out_cache_loc)
        extends = not forward_batch.forward_mode.is_decode_or_idle()
        empty = requests[:0]
        swa = self._swa
        self._step = StepMetadata(
            requests=requests,
            lengths=lengths,
            prefixes=_index(forward_batch.extend_prefix_lens) if extends else empty,
            counts=_index(forward_batch.extend_seq_lens) if extends else empty,
            slots=slots,
            swa_slots=self._translate(slots) if swa else None,
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
        step, out = self._begin(q, k, v, layer, save_kv_cache, options)
        table, requests = self._table(step, layer)
        self.ops.decode(
            q.view(out.shape[0], -1),
            out,
            self.pool.get_key_buffer(layer.layer_id),
            self.pool.get_value_buffer(layer.layer_id),
            table,
            requests,
            step.lengths,
            layer.scaling,
            layer.logit_cap,
            layer.sliding_window_size,
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
        step, out = self._begin(q, k, v, layer, save_kv_cache, options)
        table, requests = self._table(step, layer)
        self.ops.extend(
            q.view(out.shape[0], -1),
            out,
            self.pool.get_key_buffer(layer.layer_id),
            self.pool.get_value_buffer(layer.layer_id),
            table,
            requests,
            step.prefixes,
            step.counts,
            layer.scaling,
            layer.logit_cap,
            layer.sliding_window_size,
        )
        return out

    def support_triton(self) -> bool:
        return False

    def _begin(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: RadixAttention,
        save_kv_cache: bool,
        options: dict[str, Any],
    ) -> tuple[StepMetadata, Tensor]:
        """Write the step's keys and values; return the metadata and an output to fill."""
        for name, value in options.items():
            if value is not None:
                raise NotImplementedError(
                    f"the CPU attention backend has no {name}; use --attention-backend torch_native"
                )
        step = self._step
        assert step is not None, "init_forward_metadata runs before the layers"
        if save_kv_cache and k is not None and v is not None:
            self._store(k, v, layer, step)
        out = q.new_empty(q.shape[0], layer.tp_q_head_num * layer.v_head_dim)
        return step, out

    def _store(self, k: Tensor, v: Tensor, layer: RadixAttention, step: StepMetadata) -> None:
        if self._plain_pool and k.dtype == self.pool.dtype:
            layer_id = layer.layer_id
            keys, values = (
                self.pool.get_key_buffer(layer_id),
                self.pool.get_value_buffer(layer_id),
            )
            self.ops.store_kv(k, v, keys, values, step.slots)
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
        translated: Tensor = self._translate(self.table[requests, :longest].long())
        return translated.int()

    def _translate(self, slots: Tensor) -> Tensor:
        translated: Tensor = self.pool.translate_loc_from_full_to_swa(slots)
        return translated.long()


def attention_ops(runner: ModelRunner) -> AttentionOps:
    """The compiled kernels, with the rest of the model put on them too; torch if there are none."""
    try:
        kernels = load_kernels()
    except KernelsUnavailable as error:
        logger.warning(
            "The CPU kernels cannot be built (%s); using batched torch, which is slower. "
            "A C++ compiler and Python's headers (Debian: g++, python3-dev) would build them.",
            error,
        )
        return TorchOps()
    fused.accelerate(runner.model, kernels)
    return kernels


def _index(indices: Tensor) -> Tensor:
    return indices.to(torch.int64).contiguous()
