"""Tell clients of Anthropic's API that an aborted answer is not a whole one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from autellix_sgl.patches.record import Patch

MODULE = "sglang.srt.entrypoints.anthropic.serving"
NAME = "STOP_REASON_MAP"


def apply(reasons: Mapping[str, str]) -> None:
    """Answer with *reasons*, by finish reason, beside those that SGLang has."""
    getattr(importlib.import_module(MODULE), NAME).update(reasons)


def in_effect(reasons: Mapping[str, str]) -> bool:
    """Whether it is answered with them."""
    found: Mapping[str, str] = getattr(importlib.import_module(MODULE), NAME)
    return reasons.items() <= found.items()


PATCH = Patch(
    name="anthropic_abort",
    target=f"{MODULE}:AnthropicServing._convert_response",
    kind="add an entry to a module's table, in the main process only",
    reason=(
        "Of an answer that was aborted /v1/messages says end_turn, as of one that is whole, and an "
        "agent takes it for one. Anthropic's API has no word for it; what says that the answer was "
        "cut off is max_tokens. The table is not an argument of anything."
    ),
    upstream="none",
    remove_when="SGLang does not answer end_turn for an abort",
    since="0.5.23",
    depends=(),
    apply=apply,
    in_effect=in_effect,
)
