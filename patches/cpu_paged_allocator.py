"""Page sizes above 1 on the CPU."""

from __future__ import annotations

import importlib
from typing import Any

from autellix_sgl.patches.record import Patch

MODULE = "sglang.srt.mem_cache.allocator.paged"
KERNELS = ("alloc_extend_kernel", "alloc_decode_kernel")


def apply(kernels: Any) -> None:
    """Let this process's paged allocator call ``kernels[name]`` in the Triton kernels' place."""
    module = importlib.import_module(MODULE)
    for name in KERNELS:
        setattr(module, name, kernels[name])


def in_effect(kernels: Any) -> bool:
    """Whether it does."""
    module = importlib.import_module(MODULE)
    return all(getattr(module, name) is kernels[name] for name in KERNELS)


PATCH = Patch(
    name="cpu_paged_allocator",
    target=f"{MODULE}:PagedTokenToKVPoolAllocator",
    kind="replace two module globals, in scheduler processes on the CPU only",
    reason=(
        "The paged allocator launches Triton kernels whatever its device, and Triton has no CPU "
        "driver, so a page size above 1 fails at the first request. The allocator class is chosen "
        "inside upstream's pool configuration, which no flag or registry reaches."
    ),
    upstream="none",
    remove_when="SGLang's paged allocator works on a device without Triton",
    since="0.5.21",
    depends=(
        f"{MODULE}:alloc_extend_naive",
        "sglang.kernels.ops.memory.allocator:alloc_extend_kernel",
        "sglang.kernels.ops.memory.allocator:alloc_decode_kernel",
    ),
    apply=apply,
    in_effect=in_effect,
)
