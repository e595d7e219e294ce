"""Fill the penalisers of a batch from what its requests have generated."""

from __future__ import annotations

import importlib
from typing import Any

from autellix_sgl.patches.record import Patch

PACKAGE = "sglang.srt.sampling.penaltylib"
NAME = "BatchedPenalizerOrchestrator"
BATCH = "sglang.srt.managers.schedule_batch:ScheduleBatch"
SAMPLING = "sglang.srt.sampling.sampling_batch_info:SamplingBatchInfo"


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
        f"{SAMPLING}.from_schedule_batch",
        f"{SAMPLING}.filter_batch",
        f"{SAMPLING}.merge_batch",
        f"{SAMPLING}.update_penalties",
        f"{BATCH}.cumulate_penalty_output_tokens",
        f"{BATCH}.prepare_for_decode",
        f"{BATCH}.merge_batch",
        f"{PACKAGE}.orchestrator:_BatchedPenalizer",
        f"{PACKAGE}.frequency_penalty:BatchedFrequencyPenalizer",
        f"{PACKAGE}.presence_penalty:BatchedPresencePenalizer",
        f"{PACKAGE}.repetition_penalty:BatchedRepetitionPenalizer",
        f"{PACKAGE}.min_new_tokens:BatchedMinNewTokensPenalizer",
    ),
    apply=apply,
    in_effect=in_effect,
)
