"""What is known of a request's program once it has been read, and what an id may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autellix_sgl.core import Hints
from autellix_sgl.errors import InvalidProgram
from autellix_sgl.runtime.identity.sources import MAX_EXPECTED, MAX_ID_CHARACTERS


@dataclass(frozen=True, slots=True)
class Identity:
    """What a request said of its program.

    ``program`` None: it said nothing. ``transient``: the program ends with the request's calls.
    ``parent``: the session that this one is a child of, so that its calls are the parent's run.
    ``source``: the row of the table that named it. ``tenant`` is whose API key the request had,
    ``user`` the end user it named; neither ever names a program. ``service_ms``: what the program
    has had so far, at other servers too. ``hints``: what its client expects it to ask for.
    """

    program: str | None = None
    thread: str = ""
    end: bool = False
    transient: bool = False
    parent: str | None = None
    source: str | None = None
    tenant: str = ""
    user: str | None = None
    service_ms: float = 0.0
    hints: Hints | None = None

    def for_prompt(self, index: int) -> Identity:
        """The identity of one prompt of a batch: the same program, a thread of its own."""
        return replace(self, thread=f"{self.thread}.{index}" if self.thread else str(index))

    def or_own(self, request_id: str, *, kept: bool = False) -> Identity:
        """This identity, or for a request that named no program one of its own.

        *kept*: a later request can continue this one, so the program must outlive it.
        """
        if self.program is not None:
            return self
        return replace(self, program=request_id, transient=not kept)


ANONYMOUS = Identity()


def check_id(field: str, value: object) -> str:
    """*value* if it is 1 to 256 printable characters; raises InvalidProgram for *field*."""
    if isinstance(value, bytes):
        raise InvalidProgram(field, "must be UTF-8")
    if not isinstance(value, str):
        raise InvalidProgram(field, f"must be a string, got {type(value).__name__}")
    if not 1 <= len(value) <= MAX_ID_CHARACTERS:
        raise InvalidProgram(
            field, f"must have 1 to {MAX_ID_CHARACTERS} characters, got {len(value)}"
        )
    if not value.isprintable():
        raise InvalidProgram(field, "must have printable characters only")
    return value


FLAGS = {"true": True, "1": True, "false": False, "0": False}


def check_flag(field: str, value: object) -> bool:
    """A JSON boolean, or a header that says ``true`` or ``false``; raises InvalidProgram."""
    if isinstance(value, bool):
        return value
    flag = FLAGS.get(value.lower()) if isinstance(value, str) else None
    if flag is None:
        raise InvalidProgram(field, "must be true or false")
    return flag


def check_service(field: str, value: object) -> float:
    """Milliseconds as a JSON number or in a header, finite and >= 0; raises InvalidProgram."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidProgram(field, f"must be a number, got {type(value).__name__}")
    try:
        service_ms = float(value)
    except (ValueError, OverflowError):
        raise InvalidProgram(field, "must be a number") from None
    if not 0 <= service_ms < math.inf:
        raise InvalidProgram(field, f"must be finite and at least 0, got {service_ms:g}")
    return service_ms


def check_count(field: str, value: object) -> int:
    """A whole number from 1 to MAX_EXPECTED, as JSON or as a header has it; InvalidProgram."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value) if len(value) <= len(str(MAX_EXPECTED)) else MAX_EXPECTED + 1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_EXPECTED:
        raise InvalidProgram(field, f"must be a whole number from 1 to {MAX_EXPECTED}")
    return value
