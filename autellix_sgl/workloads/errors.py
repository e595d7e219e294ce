"""The error of this package: input that cannot be read as programs."""

from __future__ import annotations

from autellix_sgl.errors import AutellixError


class WorkloadError(AutellixError, ValueError):
    """A trace file's line cannot be used. ``field`` names the part at fault, "" for the line."""

    def __init__(self, file: str, line: int, field: str, problem: str) -> None:
        where = f"{file}:{line}" + (f": {field}" if field else "")
        super().__init__(f"{where}: {problem}")
        self.file = file
        self.line = line
        self.field = field
