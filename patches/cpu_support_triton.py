"""Let our CPU attention backend be known as one without Triton."""

from __future__ import annotations

from functools import partial

from autellix_sgl.patches.record import Patch
from autellix_sgl.patches.wrapping import is_wrapped, wrap

TARGET = "sglang.srt.utils.common:support_triton"

PATCH = Patch(
    name="cpu_support_triton",
    target=TARGET,
    kind="wrap a function, on the CPU only",
    reason=(
        "support_triton decides by a list of backend names whether tensors may be handed to "
        "Triton kernels, and the list is upstream's. Our backend, registered through the "
        "attention registry, is not on it, and Triton has no CPU driver."
    ),
    upstream="none",
    remove_when="attention backends say themselves whether they use Triton",
    since="0.5.21",
    depends=(),
    apply=partial(wrap, TARGET),
    in_effect=partial(is_wrapped, TARGET),
)
