"""What a process of the server says of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """Which process this is and which patches are in effect in it.

    ``accepted``: changed definitions that were accepted because the environment names them.
    """

    role: str
    pid: int
    sglang: str
    patches: tuple[str, ...]
    accepted: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
