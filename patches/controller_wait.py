"""Let the data-parallel controller wait for messages instead of spinning."""

from __future__ import annotations

from functools import partial

from autellix_sgl.patches.record import Patch, Reliance
from autellix_sgl.patches.wrapping import is_wrapped, wrap

TARGET = "sglang.srt.managers.io_struct:sock_recv"

PATCH = Patch(
    name="controller_wait",
    target=TARGET,
    kind="wrap a function, in the data-parallel controller on the CPU only",
    reason=(
        "The controller's loop asks its socket for a message without waiting, over and over. That "
        "takes a whole core, which without a GPU is one of those that the replicas compute on. "
        "Schedulers have --sleep-on-idle for this; the controller has nothing."
    ),
    upstream="none",
    remove_when="SGLang's controller waits for its messages, or --sleep-on-idle reaches it",
    since="0.5.21",
    depends=(
        Reliance(
            "sglang.srt.managers.data_parallel_controller:DataParallelController.event_loop",
            "runtime/cpu/controller.py",
            "asks without waiting, and has nothing else to do between two messages",
        ),
    ),
    apply=partial(wrap, TARGET),
    in_effect=partial(is_wrapped, TARGET),
)
