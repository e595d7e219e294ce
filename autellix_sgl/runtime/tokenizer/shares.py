"""The shares' file: how much of the machine each tenant, or each of its users, is entitled to.

    {"by": "tenant", "weights": {"search-team": 3, "support": 1}}

or the same as TOML. ``by`` says whose shares these are: ``tenant``, whose API key a call came with,
or ``user``, the end user that it names (``safety_identifier`` or ``user``) inside its tenant,
written ``tenant/user`` where keys tell tenants apart. Who has no weight of its own has ``default``,
which is 1 unless it is given. The file is looked at every second and takes effect without a
restart, for each tenant with its next call.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autellix_sgl.errors import ConfigError

logger = logging.getLogger(__name__)

FLAG = "--program-shares"
PERIOD_S = 1.0

TENANT, USER = "tenant", "user"
FIELDS = ("by", "weights", "default")


@dataclass(frozen=True, slots=True)
class Shares:
    """The file's content. Weights are against each other; only their ratios matter."""

    by: str = TENANT
    weights: Mapping[str, float] = field(default_factory=dict)
    default: float = 1.0

    @classmethod
    def load(cls, path: Path) -> Shares:
        """Read the file; ConfigError names it and what is wrong in it."""
        try:
            text = path.read_text(encoding="utf-8")
            data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        except OSError as error:
            raise ConfigError(f"{FLAG} {path}: {error.strerror}") from error
        except ValueError as error:
            kind = "TOML" if path.suffix == ".toml" else "JSON"
            raise ConfigError(f"{FLAG} {path}: not {kind}: {error}") from error
        try:
            return cls.of(data)
        except ConfigError as error:
            raise ConfigError(f"{FLAG} {path}: {error}") from error

    @classmethod
    def of(cls, data: Any) -> Shares:
        """The shares in a parsed file; raises ConfigError."""
        if not isinstance(data, dict):
            raise ConfigError("expected an object")
        for name in data:
            if name not in FIELDS:
                raise ConfigError(f"{name!r} is unknown (known: {', '.join(FIELDS)})")
        by = data.get("by", TENANT)
        if by not in (TENANT, USER):
            raise ConfigError(f"by: must be {TENANT!r} or {USER!r}, got {by!r}")
        weights = data.get("weights", {})
        if not isinstance(weights, dict):
            raise ConfigError("weights: expected an object of names and numbers")
        checked = {name: _weight(f"weights: {name!r}", value) for name, value in weights.items()}
        return cls(by, checked, _weight("default", data.get("default", 1)))

    def of_call(self, tenant: str, user: str | None) -> tuple[str, float]:
        """Whose share a call counts against, and its weight as a part of the largest."""
        holder = tenant
        if self.by == USER and user:
            holder = f"{tenant}/{user}" if tenant else user
        return holder, self.weights.get(holder, self.default) / self._largest

    @property
    def _largest(self) -> float:
        return max(self.default, *self.weights.values()) if self.weights else self.default


def _weight(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name}: a weight must be a number, got {value!r}")
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name}: a weight must be positive and finite, got {value}")
    return float(value)


class SharesFile:
    """The shares in effect: the file's, or if it is bad now, what it held before.

    ``loaded`` and ``rejected`` count its versions, ``current`` is 1 if the latest is in effect.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._signature()
        self.shares = Shares.load(path)
        self.loaded = 1
        self.rejected = 0
        self.current = 1

    def look(self) -> None:
        """Read the file if it has changed since the last look."""
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self.shares = Shares.load(self._path)
        except ConfigError as error:
            self.rejected += 1
            self.current = 0
            logger.error("%s. The shares stay as they were.", error)
            return
        self.loaded += 1
        self.current = 1
        logger.info("New shares: %s", self.shares)

    async def follow(self) -> None:
        """Look again every PERIOD_S, for ever."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self.look()

    def _signature(self) -> tuple[int, int, int] | None:
        """Another one whenever the file's content is another; None if there is no file."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino)
