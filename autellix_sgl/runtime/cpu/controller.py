"""The data-parallel controller on a machine whose cores are all needed for computing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zmq.constants import Flag

# The controller's watchdog wants a sign of life, and there may be none for as long as nobody calls.
WAIT_MS = 100


def sock_recv(original: Callable[..., Any], socket: Any, flags: int = 0) -> Any:
    """SGLang's, but one that is not to block waits a moment for a message first."""
    if flags & Flag.NOBLOCK:
        socket.poll(WAIT_MS)
    return original(socket, flags)
