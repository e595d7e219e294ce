"""The simulated server: what a step costs, how much fits, how prompts are cut."""

from __future__ import annotations

from dataclasses import dataclass

from autellix_sgl.core import CostModel
from autellix_sgl.errors import ConfigError

# Llama-3.1-8B in bfloat16 on one A100-80GB, the paper's smallest setting, from the machine's own
# numbers; no measurement of ours.
#   base      16 GB of weights are read in every step: 16.1e9 B / 2.0e12 B/s          = 8 ms
#   prefill   2 * 8.0e9 FLOP a token at 65 % of 312e12 FLOP/s                         = 0.08 ms
#   call      sampling, scheduling and streaming of one more call in the batch        ~ 0.03 ms
#   context   KV of a token is 32 layers * 2 * 8 heads * 128 * 2 B = 131,072 B; read
#             at 1.6e12 B/s                                                           = 0.00008 ms
A100_8B = CostModel(
    base_ms=8.0,
    per_prefill_token_ms=0.08,
    per_decode_call_ms=0.03,
    per_context_token_ms=0.00008,
)
# (80 GB * 0.88 - 16.1 GB of weights) / 131,072 B a token.
A100_8B_KV_TOKENS = 410_000
# A token's 131,072 B over PCIe 4.0 at 25e9 B/s is 0.0052 ms, beside 0.08 ms to compute it:
# the paper moves KV to host memory and back in one transfer, as SGLang's hierarchical cache does.
A100_SWAP_COST = 0.065


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerModel:
    """One replica. ``slots``: calls in a batch at most; ``kv_tokens``: tokens the KV pool holds.

    A step computes at most ``chunk_tokens`` (prefill tokens, and decodes when ``mixed``). With
    ``mixed`` prefill chunks and decodes share a step (chunked prefill as in the paper's baseline);
    without, a step is one or the other and prefill goes first (SGLang's default). ``prefix_cache``
    off is vLLM 0.6.1 as the paper ran it: every prompt is computed whole. ``reserve``: the share of
    a running call's remaining tokens that admission keeps room for. ``swap_cost``: KV
    that was evicted comes back from host memory at this share of a prefill token's time, 1 means
    that there is no host tier and it is computed again. The host tier is taken as unlimited: 1 TB
    holds 8 million tokens. ``min_steps_left``: calls that end sooner are not preempted.
    """

    cost: CostModel = A100_8B
    slots: int = 64
    kv_tokens: int = A100_8B_KV_TOKENS
    chunk_tokens: int = 2048
    mixed: bool = True
    prefix_cache: bool = True
    reserve: float = 0.5
    swap_cost: float = A100_SWAP_COST
    min_steps_left: int = 3

    def __post_init__(self) -> None:
        for name in ("slots", "kv_tokens", "chunk_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"server: {name} must be at least 1, got {getattr(self, name)}")
        if self.mixed and self.chunk_tokens < self.slots + 1:
            raise ConfigError(
                f"server: chunk_tokens ({self.chunk_tokens}) must exceed slots ({self.slots}), "
                "or a full batch of decodes leaves no room for prefill"
            )
        if not 0 <= self.reserve <= 1:
            raise ConfigError(f"server: reserve must be between 0 and 1, got {self.reserve}")
        if not 0 < self.swap_cost <= 1:
            raise ConfigError(f"server: swap_cost must be in (0, 1], got {self.swap_cost}")


# The default model in bfloat16 on two cores of an AMD EPYC: the fit that a server made of itself
# (`python -m autellix_sgl.doctor --url`), and the sizes it starts with. Prefill goes first there.
CPU_135M = CostModel(
    base_ms=14.2,
    per_prefill_token_ms=0.377,
    per_decode_call_ms=0.19,
    per_context_token_ms=0.0013,
)

HARDWARE = {
    "a100-8b": ServerModel(),
    "cpu-135m": ServerModel(
        cost=CPU_135M,
        slots=8,
        kv_tokens=32_768,
        chunk_tokens=2048,
        mixed=False,
        swap_cost=1.0,
    ),
}
