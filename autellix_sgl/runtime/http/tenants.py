"""The tenants' file: API keys by tenant.

SGLang knows one API key and one for administration. ``--program-tenants FILE`` replaces the first
by one or more keys for each tenant: a JSON object of names and keys, each key as it is or as the
SHA-256 of it.

    {"search-team": "k-1f0c", "support": ["k-77ab", "sha256:9f86d081884c7d65..."]}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autellix_sgl.errors import ConfigError

FLAG = "--program-tenants"
HASHED = "sha256:"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Tenants:
    """The tenants' keys. Only hashes are kept, so looking one up tells nothing by its time."""

    def __init__(self, by_digest: Mapping[str, str]) -> None:
        self._by_digest = dict(by_digest)
        self.names = tuple(dict.fromkeys(by_digest.values()))

    @classmethod
    def load(cls, path: Path) -> Tenants:
        """Read the file; ConfigError names it and what is wrong in it."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{FLAG} {path}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"{FLAG} {path}: not JSON: {error}") from error
        try:
            return cls.of(data)
        except ConfigError as error:
            raise ConfigError(f"{FLAG} {path}: {error}") from error

    @classmethod
    def of(cls, data: Any) -> Tenants:
        """The tenants in a parsed file; raises ConfigError."""
        if not isinstance(data, dict) or not data:
            raise ConfigError("expected a JSON object with at least one tenant")
        by_digest: dict[str, str] = {}
        for name, keys in data.items():
            if not _NAME.fullmatch(name):
                raise ConfigError(f"tenant {name!r}: 1 to 64 of A-Z, a-z, 0-9, _ and - are a name")
            for digest in _digests(name, keys):
                other = by_digest.setdefault(digest, name)
                if other != name:
                    raise ConfigError(f"tenants {other!r} and {name!r} have a key in common")
        return cls(by_digest)

    def tenant_of(self, key: str) -> str | None:
        """The tenant whose key this is, None if it is nobody's."""
        return self._by_digest.get(digest_of(key))


def _digests(name: str, keys: object) -> Iterable[str]:
    listed = keys if isinstance(keys, list) else [keys]
    if not listed:
        raise ConfigError(f"tenant {name!r} has no key")
    for key in listed:
        if not isinstance(key, str) or not key or not key.isascii() or " " in key:
            raise ConfigError(f"tenant {name!r}: a key is a word of ASCII characters")
        if not key.startswith(HASHED):
            yield digest_of(key)
        elif _DIGEST.fullmatch(key.removeprefix(HASHED)):
            yield key.removeprefix(HASHED)
        else:
            raise ConfigError(f"tenant {name!r}: after {HASHED} come 64 hexadecimal digits")


def digest_of(key: str) -> str:
    """The hash under which a key is known."""
    return hashlib.sha256(key.encode()).hexdigest()
