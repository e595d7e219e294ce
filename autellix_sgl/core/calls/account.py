"""A tenant's account, in which its calls stand where tenants have shares of the machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from autellix_sgl.core.calls.queue import CallQueue, Key


@dataclass(slots=True, eq=False)
class Account:
    """What one tenant has had in one scheduler, and which of its calls wait.

    ``weight`` is at most 1, the largest: that tenant's turn is as long as a turn is, the others'
    are shorter. ``virtual_ms`` only grows, and ``turn`` with it. ``service_ms`` is what it was
    charged since the account was opened, ``calls`` how many it has here. ``first`` is where its
    best waiting call stands among all tenants', None if none waits.
    """

    tenant: str
    weight: float
    virtual_ms: float = 0.0
    turn: int = 0
    service_ms: float = 0.0
    calls: int = 0
    first: Key | None = None
    queue: CallQueue = field(default_factory=CallQueue)
