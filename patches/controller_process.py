"""Enter the data-parallel controller's process through a function of ours."""

from __future__ import annotations

import importlib
from typing import Any

from autellix_sgl.patches.record import Patch

MODULE = "sglang.srt.entrypoints.engine"
NAME = "run_data_parallel_controller_process"


def apply(entry_point: Any) -> None:
    """Let this process start its data-parallel controller with *entry_point*."""
    setattr(importlib.import_module(MODULE), NAME, entry_point)


def in_effect(entry_point: Any) -> bool:
    """Whether it will."""
    return getattr(importlib.import_module(MODULE), NAME, None) is entry_point


PATCH = Patch(
    name="controller_process",
    target=f"{MODULE}:Engine._launch_scheduler_processes",
    kind="replace a module global, in the main process on the CPU only",
    reason=(
        "The launcher takes the entry points of the scheduler and the detokenizer as arguments, "
        "but names that of the data-parallel controller as a module global, and the controller's "
        "process is one that has to be set up too: see controller_wait."
    ),
    upstream="none",
    remove_when="SGLang takes the controller's entry point as an argument, as it takes the others",
    since="0.5.21",
    depends=(),
    apply=apply,
    in_effect=in_effect,
)
