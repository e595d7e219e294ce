"""Find the last cached slot without Triton, for pages of several tokens on the CPU."""

from __future__ import annotations

from functools import partial

from autellix_sgl.patches.record import Patch
from autellix_sgl.patches.wrapping import is_wrapped, wrap

TARGET = "sglang.srt.mem_cache.allocation:get_last_loc"

PATCH = Patch(
    name="cpu_last_loc",
    target=TARGET,
    kind="wrap a function, on the CPU only",
    reason=(
        "get_last_loc chooses between a Triton kernel and a torch form by the attention "
        "backend's name, and knows only upstream's names. Its neighbour support_triton asks the "
        "platform since SGLang 0.5.22."
    ),
    upstream="none",
    remove_when="get_last_loc asks the platform, too, or the attention backend",
    since="0.5.21",
    depends=(),
    apply=partial(wrap, TARGET),
    in_effect=partial(is_wrapped, TARGET),
)
