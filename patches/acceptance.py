"""Changed definitions that a site answers for itself: ``AUTELLIX_ACCEPT_CHANGED=name,name``.

For a patched SGLang of the pinned version. A server starts although exactly the definitions named
have another source than was recorded; one that is missing is never accepted.
"""

from __future__ import annotations

import os

from autellix_sgl.errors import ActivationError, UnknownDefinition
from autellix_sgl.patches.inventory import named

VARIABLE = "AUTELLIX_ACCEPT_CHANGED"


def accepted() -> list[str]:
    """The definitions that the environment names; raises ActivationError for one unknown."""
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    try:
        return named(name for name in names if name)
    except UnknownDefinition as error:
        raise ActivationError(f"{VARIABLE}: {error}") from error
