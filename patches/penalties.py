"""Fill the penalisers of a batch from what its requests have generated."""

from __future__ import annotations

import importlib
from typing import Any

from autellix_sgl.patches.record import Patch, Reliance

PACKAGE = "sglang.srt.sampling.penaltylib"
NAME = "BatchedPenalizerOrchestrator"
BATCH = "sglang.srt.managers.schedule_batch:ScheduleBatch"
SAMPLING = "sglang.srt.sampling.sampling_batch_info:SamplingBatchInfo"
OURS = "runtime/scheduler/penalties.py"


def apply(orchestrator_class: Any) -> None:
    """Let the batches of this process have an *orchestrator_class*."""
    setattr(importlib.import_module(PACKAGE), NAME, orchestrator_class)


def in_effect(orchestrator_class: Any) -> bool:
    """Whether they will."""
    return getattr(importlib.import_module(PACKAGE), NAME, None) is orchestrator_class


PATCH = Patch(
    name="penalties",
    target=f"{PACKAGE}.orchestrator:{NAME}",
    kind="replace a package's global by a subclass, in our scheduler processes only",
    reason=(
        "A request that comes back to the batch finds its penalties and min_new_tokens counted "
        "from nothing, and with overlap a prefill of somebody else leaves one of its tokens out "
        "and counts another twice: the answer changes. SamplingBatchInfo names the class as a "
        "global of the package."
    ),
    upstream="none",
    remove_when="SGLang fills penalisers from output_ids when a request is admitted again",
    since="0.5.21",
    depends=(
        Reliance(
            f"{SAMPLING}.from_schedule_batch",
            OURS,
            "makes the penalisers of a prefill, with the batch's requests as they are admitted",
        ),
        Reliance(
            f"{SAMPLING}.update_penalties",
            OURS,
            "hands what they hold to the sampler, before each step",
        ),
        Reliance(
            f"{BATCH}.cumulate_penalty_output_tokens",
            OURS,
            "one token for each request, the last that was processed",
        ),
        Reliance(
            f"{BATCH}.prepare_for_decode",
            OURS,
            "that comes before the sequences grow by the token of this step",
        ),
        Reliance(
            f"{PACKAGE}.orchestrator:_BatchedPenalizer",
            OURS,
            "prepared for a batch in which somebody needs it; rows are filtered and merged",
        ),
        *(
            Reliance(
                f"{PACKAGE}.{module}:{name}",
                OURS,
                "what a token does to its row, and in which tensor",
            )
            for module, name in (
                ("frequency_penalty", "BatchedFrequencyPenalizer"),
                ("presence_penalty", "BatchedPresencePenalizer"),
                ("repetition_penalty", "BatchedRepetitionPenalizer"),
                ("min_new_tokens", "BatchedMinNewTokensPenalizer"),
            )
        ),
    ),
    apply=apply,
    in_effect=in_effect,
)
