"""What is remembered of many things, of many tenants, within one bound.

When it is full, the tenant that has most gives up what it has used least lately: nobody can crowd
out what is known of another.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from autellix_sgl.errors import ConfigError

Key = TypeVar("Key", int, str)
Value = TypeVar("Value")


class TenantCache(Generic[Key, Value]):
    """Values by tenant and key, at most *limit* in all."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ConfigError(f"cache: the limit must be at least 1, got {limit}")
        self._limit = limit
        self._size = 0
        # Of each tenant, longest unused first.
        self._tenants: dict[str, OrderedDict[Key, Value]] = {}

    def __len__(self) -> int:
        return self._size

    def find(self, tenant: str, key: Key) -> Value | None:
        """The value, None if it is not remembered; a look does not count as use."""
        own = self._tenants.get(tenant)
        return own.get(key) if own is not None else None

    def put(self, tenant: str, key: Key, value: Value) -> None:
        """Remember the value; the latest use of the key is now."""
        own = self._tenants.setdefault(tenant, OrderedDict())
        self._size += key not in own
        own[key] = value
        own.move_to_end(key)
        if self._size > self._limit:
            self._forget_one()

    def _forget_one(self) -> None:
        tenant = max(self._tenants, key=lambda name: len(self._tenants[name]))
        own = self._tenants[tenant]
        own.popitem(last=False)
        self._size -= 1
        if not own:
            del self._tenants[tenant]
