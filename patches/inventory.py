"""Every patch, and every upstream definition the package relies on."""

from __future__ import annotations

from collections.abc import Iterable

from autellix_sgl.errors import UnknownDefinition
from autellix_sgl.patches import (
    anthropic_abort,
    controller_process,
    controller_wait,
    cpu_last_loc,
    penalties,
    scheduler_class,
)
from autellix_sgl.patches.record import Patch, Reliance
from autellix_sgl.patches.seams import SEAMS

PATCHES: tuple[Patch, ...] = (
    scheduler_class.PATCH,
    penalties.PATCH,
    cpu_last_loc.PATCH,
    controller_process.PATCH,
    controller_wait.PATCH,
    anthropic_abort.PATCH,
)


def reliances() -> list[Reliance]:
    """What is relied on, by whom and for what: the patches' first."""
    return [*(found for patch in PATCHES for found in patch.relied_on), *SEAMS]


def relied_on() -> list[str]:
    """``module:Qualified.name`` of all of them, each once."""
    return list(dict.fromkeys(reliance.target for reliance in reliances()))


def named(names: Iterable[str]) -> list[str]:
    """The definitions relied on that *names* mean.

    A name is written ``module:Qualified.name`` or, where that is enough, ``Qualified.name``. Raises
    UnknownDefinition for one that means none or several.
    """
    targets = relied_on()
    found = []
    for name in names:
        meant = [t for t in targets if name in (t, t.partition(":")[2])]
        if len(meant) != 1:
            which = f"is not one definition but {len(meant)}" if meant else "is not relied on"
            raise UnknownDefinition(f"{name} {which}")
        found += meant
    return found
