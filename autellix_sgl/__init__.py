"""SGLang that schedules agent programs instead of requests.

    with autellix_sgl.program("research") as p:      the calls made in here are one program
        client = p.openai(base_url=...)

Importing this package imports neither torch nor sglang, and nothing outside of the standard library
before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autellix_sgl.engine import Engine
    from autellix_sgl.frontend import Executor, Program, carry, current, program, wrap
    from autellix_sgl.language import RuntimeEndpoint

__version__ = "0.1.0"

__all__ = [
    "Engine",
    "Executor",
    "Program",
    "RuntimeEndpoint",
    "carry",
    "current",
    "program",
    "wrap",
]

_HOMES = {
    "Engine": "autellix_sgl.engine",
    "RuntimeEndpoint": "autellix_sgl.language",
}
"""Public names and the modules that are imported when one is used; the rest are the frontend's."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(_HOMES.get(name, "autellix_sgl.frontend"))
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
