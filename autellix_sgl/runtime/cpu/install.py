"""Make the backend known to SGLang.

The registry and the list of choices are SGLang's own extension points. One of its functions decides
by a backend's *name* whether tensors may be handed to Triton, and knows only upstream's names:
``HOOKS`` holds what it must do for ours. A hook takes the original as its first argument.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from autellix_sgl.patches import cpu_last_loc

BACKEND_NAME = "autellix_cpu"


def install() -> None:
    """Register the backend in this process; idempotent.

    Called in the main process before ServerArgs are parsed and in every scheduler process before
    its ModelRunner is built. Compiles and loads nothing: that happens when the backend is created.
    Processes spawned from here on let an idle OpenMP thread sleep: the few operations of a step
    that are still torch's (sampling) would otherwise keep one spinning for milliseconds after each,
    on a core that the kernels, the tokenizer or a client could use.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from sglang.srt.arg_groups.choices import (
        ATTENTION_BACKEND_CHOICES,
        add_attention_backend_choices,
    )
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    if BACKEND_NAME not in ATTENTION_BACKEND_CHOICES:
        add_attention_backend_choices([BACKEND_NAME])
    register_attention_backend(BACKEND_NAME)(_create)
    cpu_last_loc.PATCH.apply(get_last_loc)


def _create(runner: Any) -> Any:
    from autellix_sgl.runtime.cpu.attention import create_backend

    return create_backend(runner)


def get_last_loc(
    original: Callable[..., Any], table: Any, requests: Any, prefix_lengths: Any
) -> Any:
    """The slot of each request's last cached token, by upstream's torch form (page size > 1)."""
    from sglang.srt.mem_cache.allocation import get_last_loc_torch
    from sglang.srt.runtime_context import attention_backends

    if BACKEND_NAME in attention_backends():
        return get_last_loc_torch(table, requests, prefix_lengths)
    return original(table, requests, prefix_lengths)


# What each patch of that name puts around its target.
HOOKS: dict[str, Callable[..., Any]] = {cpu_last_loc.PATCH.name: get_last_loc}
