"""A running hash of what a rank has decided, to be compared with those of the other ranks.

If two tensor-parallel ranks decide differently, their collectives hang or, worse, mix up rows. The
hash is taken over what each step computes and for whom, so ranks that agree in it have run the same
batches in the same order. It costs a few microseconds a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from autellix_sgl.core import StepWork


class DecisionDigest:
    """Told of every step and of every call that is taken out of the batch."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=8)

    def stepped(self, work: StepWork, clock_ms: float) -> None:
        """A step of *work* was launched; the modelled clock reads *clock_ms* after it."""
        self._hash.update(repr((work.prefills, work.decodes, clock_ms)).encode())

    def taken_out(self, calls: Iterable[str]) -> None:
        """Calls left the batch to wait, in this order."""
        self._hash.update(repr(tuple(calls)).encode())

    @property
    def value(self) -> str:
        """The hash so far, 16 hexadecimal digits."""
        return self._hash.hexdigest()
