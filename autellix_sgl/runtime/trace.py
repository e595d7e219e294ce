"""The decision log: one JSON array a line, ``[event, {fields}]``, enough to replay a run."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import orjson

from autellix_sgl.errors import ConfigError


class TraceWriter:
    """Appends events to a file; buffered, flushed when the scheduler idles."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    @classmethod
    def open(cls, path: str | None, *, replica: int, leader: bool) -> TraceWriter | None:
        """A writer for this replica's log, or None: no path asked for, or not the leading rank."""
        if path is None or not leader:
            return None
        target = Path(path if replica == 0 else f"{path}.{replica}")
        try:
            return cls(target.open("wb"))
        except OSError as error:
            raise ConfigError(f"--program-trace {target}: {error.strerror}") from error

    def record(self, event: str, fields: dict[str, object]) -> None:
        self._file.write(orjson.dumps([event, fields]) + b"\n")

    def flush(self) -> None:
        self._file.flush()
