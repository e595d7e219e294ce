"""A few tokens through the loaded model before the server is ready: ours against torch_native.

What a model asks of its attention backend and in which shapes is written in its code, and there are
more models than anybody lists. So each is tried when the backend is created: two short requests are
prefilled in two parts and decoded, on the kernels and as SGLang has it. Where the kernels fail or
their numbers differ, the model is served by torch_native, and a request never meets what they
cannot do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.model_executor.forward_batch_info import (
    CaptureHiddenMode,
    ForwardBatch,
    ForwardMode,
)
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context
from sglang.srt.runtime_context import get_parallel
from torch import Tensor

from autellix_sgl.runtime.cpu.fused import Acceleration

if TYPE_CHECKING:
    from sglang.srt.model_executor.model_runner import ModelRunner

logger = logging.getLogger(__name__)

# Two lengths, so that a row taken for another request's shows.
PROMPT_LENGTHS = (5, 3)

# What a model's code raises when a backend is not what it expects: its own checks, a missing
# attribute or argument, a shape that does not fit, an operation or a module that is not there.
MODEL_ERRORS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)

# Relative difference of a request's logits. Two right implementations differ by rounding, which
# every layer carries on; a wrong mask, scale or row changes the logits by their own size.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3}


def rehearse(
    runner: ModelRunner,
    backend: Any,
    acceleration: Acceleration,
    unsupported_layer: Callable[[ModelRunner, RadixAttention], str | None],
) -> str | None:
    """Why *backend* is not to serve the runner's model, or None; all ranks say the same.

    *unsupported_layer* is asked about the layers the model was seen to use, some of which may not
    be among its modules. The model is accelerated, before and after. With LoRA nothing is tried:
    adapters' layers want batches of the scheduler's.
    """
    if runner.lora_manager is not None:
        return None
    prompts = [_prompt(runner, length) for length in PROMPT_LENGTHS]
    try:
        with staged(runner, prompts, room=1) as stage, torch.no_grad():
            stock = TorchNative(runner)
            theirs = _stock(stage, stock, acceleration)
            reasons = (unsupported_layer(runner, layer) for layer in stock.layers)
            reason = next((said for said in reasons if said is not None), None)
            if reason is None:
                with _without_logit_caps(stock.layers):
                    reason = _ours(stage, backend, theirs)
    except MODEL_ERRORS as error:
        reason = f"no rehearsal can be held ({_described(error)})"
    return _agreed(reason)


def _stock(stage: Stage, backend: TorchNative, acceleration: Acceleration) -> Tensor | None:
    """What SGLang's own code computes, or None if it fails at that too."""
    acceleration.undo()
    try:
        return stage.rehearse(backend)
    except MODEL_ERRORS as error:
        logger.info("torch_native fails in a rehearsal (%s); nothing to compare", _described(error))
        return None
    finally:
        acceleration.apply()


def _ours(stage: Stage, backend: Any, theirs: Tensor | None) -> str | None:
    """Why *backend* did not do what it is there for, or None."""
    try:
        ours = stage.rehearse(backend)
    except MODEL_ERRORS as error:
        return f"the model fails on them in a rehearsal ({_described(error)})"
    if theirs is None:
        return None
    difference = largest_difference(ours, theirs)
    logger.info("Rehearsal: the CPU kernels differ from torch_native by %.1e", difference)
    if difference > TOLERANCE[stage.runner.dtype]:
        return f"their results differ from torch_native's by {difference:.1e} in a rehearsal"
    return None


class TorchNative(TorchNativeAttnBackend):  # type: ignore[misc] # sglang is untyped
    """torch_native, remembering the layers that called it."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner)
        self.layers: dict[RadixAttention, None] = {}

    def forward(
        self, q: Any, k: Any, v: Any, layer: RadixAttention, *args: Any, **kwargs: Any
    ) -> Any:
        self.layers[layer] = None
        return super().forward(q, k, v, layer, *args, **kwargs)


class Stage:
    """Requests in a runner's pools, and forwards of its model over them: see `staged`."""

    def __init__(self, runner: ModelRunner, prompts: Sequence[Sequence[int]]) -> None:
        self.runner = runner
        rows = runner.req_to_token_pool.free_slots[: len(prompts)]
        self.prompts = prompts[: len(rows)]
        self.requests = torch.tensor(rows)
        self.lengths = torch.tensor([len(prompt) for prompt in self.prompts])
        self._table = runner.req_to_token_pool.req_to_token

    def reserve(self, room: int) -> None:
        """Allocate slots as the scheduler does, and write them to the request table."""
        allocator, lengths = self.runner.token_to_kv_pool_allocator, self.lengths + room
        total = int(lengths.sum())
        if allocator.page_size == 1:
            slots = allocator.alloc(total)
        else:
            none, before = torch.zeros_like(lengths), torch.full_like(lengths, -1)
            slots = allocator.alloc_extend(none, none, lengths, lengths, before, total)
        if slots is None:
            raise ValueError(f"the KV pool has no room for {total} tokens")
        for row, part in zip(self.requests, slots.split(lengths.tolist()), strict=True):
            self._table[row, : len(part)] = part.int()

    def clear(self) -> None:
        self._table[self.requests] = 0
        self.runner.token_to_kv_pool_allocator.clear()

    def rehearse(self, backend: Any) -> Tensor:
        """Prefill, behind a cached prefix too, and decode: logits [steps * requests, vocabulary].

        Of a model that makes embeddings, those of the whole prompts.
        """
        none, halves = torch.zeros_like(self.lengths), self.lengths // 2
        if not self.runner.is_generation:
            return self.extend(backend, none, self.lengths)
        first = self.extend(backend, none, halves)
        rest = self.extend(backend, halves, self.lengths)
        return torch.cat([first, rest, self.decode(backend, [1] * len(self.prompts), 0)])

    def extend(self, backend: Any, begins: Tensor, ends: Tensor) -> Tensor:
        """Prefill each prompt from *begins* to *ends*, behind its tokens before.

        Returns logits [requests, vocabulary], or embeddings.
        """
        counts = ends - begins
        spans = [slice(*span) for span in zip(begins.tolist(), ends.tolist(), strict=True)]
        tokens = [prompt[span] for prompt, span in zip(self.prompts, spans, strict=True)]
        slots = [self._table[row, span] for row, span in zip(self.requests, spans, strict=True)]
        return self._forward(
            backend,
            ForwardMode.EXTEND,
            [token for part in tokens for token in part],
            torch.cat([torch.arange(span.start, span.stop) for span in spans]),
            torch.cat(slots).long(),
            ends,
            extend_num_tokens=int(counts.sum()),
            extend_seq_lens=counts.int(),
            extend_prefix_lens=begins.int(),
            extend_start_loc=(counts.cumsum(0) - counts).int(),
            extend_prefix_lens_cpu=begins.tolist(),
            extend_seq_lens_cpu=counts.tolist(),
        )

    def decode(self, backend: Any, tokens: list[int], step: int) -> Tensor:
        """One more token for every request, its *step*-th; returns logits as `extend` does."""
        positions = self.lengths + step
        slots = self._table[self.requests, positions].long()
        return self._forward(backend, ForwardMode.DECODE, tokens, positions, slots, positions + 1)

    def _forward(
        self,
        backend: Any,
        mode: ForwardMode,
        tokens: list[int],
        positions: Tensor,
        slots: Tensor,
        lengths: Tensor,
        **extend: Any,
    ) -> Tensor:
        batch = ForwardBatch(
            forward_mode=mode,
            batch_size=len(lengths),
            input_ids=torch.tensor(tokens),
            req_pool_indices=self.requests,
            seq_lens=lengths,
            seq_lens_cpu=lengths,
            orig_seq_lens=lengths,
            seq_lens_sum=int(lengths.sum()),
            out_cache_loc=slots,
            positions=positions,
            mrope_positions=positions.expand(3, -1),
            spec_algorithm=self.runner.spec_algorithm,
            capture_hidden_mode=CaptureHiddenMode.NULL,
            global_forward_mode=mode,
            **extend,
        )
        backend.init_forward_metadata(batch)
        more = {} if self.runner.is_generation else {"get_embedding": True}
        with forward_context(ForwardContext(attn_backend=backend)):
            output = self.runner.model.forward(batch.input_ids, positions, batch, **more)
        result = output.next_token_logits if self.runner.is_generation else output.embeddings
        return torch.as_tensor(result).clone()


@contextmanager
def staged(runner: ModelRunner, prompts: Sequence[Sequence[int]], *, room: int) -> Iterator[Stage]:
    """Requests for *prompts*, with space for *room* tokens beyond, as far as there are rows.

    Only for pools that nobody uses yet: they are emptied on leaving. Raises ValueError if the KV
    pool is too small.
    """
    stage = Stage(runner, prompts)
    try:
        stage.reserve(room)
        yield stage
    finally:
        stage.clear()


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """The largest relative difference of a row; 0 where *expected* has no numbers to compare."""
    found, expected = found.double(), expected.double()
    rows = expected.isfinite().all(1) & expected.bool().any(1)
    if not rows.any():
        return 0.0
    differences = (found - expected).norm(dim=1) / expected.norm(dim=1)
    return float(differences[rows].nan_to_num(nan=float("inf")).max())


def _prompt(runner: ModelRunner, length: int) -> list[int]:
    """Tokens from the middle of the vocabulary, where no model keeps its special ones."""
    vocabulary = runner.model_config.vocab_size
    return [(vocabulary // 3 + 17 * i) % vocabulary for i in range(length)]


@contextmanager
def _without_logit_caps(layers: Iterable[RadixAttention]) -> Iterator[None]:
    """torch_native ignores caps on scores, which the kernels have: not a reason to use it."""
    caps = {layer: layer.logit_cap for layer in layers}
    for layer in caps:
        layer.logit_cap = 0.0
    try:
        yield
    finally:
        for layer, cap in caps.items():
            layer.logit_cap = cap


def _agreed(reason: str | None) -> str | None:
    """The first rank's reason that has one: ranks on different backends would be no model."""
    parallel = get_parallel()
    if parallel.tp_size == 1:
        return reason
    reasons: list[str | None] = [None] * parallel.tp_size
    torch.distributed.all_gather_object(reasons, reason, group=parallel.tp_group.cpu_group)
    return next((said for said in reasons if said is not None), None)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
