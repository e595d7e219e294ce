"""Which program, and which thread of it, does a request belong to?

Read from the JSON body, once, before the request is handled: ``program`` (an object with ``id``,
``thread``, ``end``, ``service_ms``) or SGLang's own ``session_id``. A request that names none is a
program of one call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from autellix_sgl.errors import InvalidProgram

MAX_ID_CHARACTERS = 256
PROGRAM_FIELDS = ("id", "thread", "end", "service_ms")

# Bodies without these bytes name no program; looking is far cheaper than parsing a long prompt. A
# prompt that contains the words has its quotes escaped, so it does not match.
MARKERS = (b'"program"', b'"session_id"')


@dataclass(frozen=True, slots=True)
class Identity:
    """What a request said of its program.

    ``program`` None: it said nothing. ``transient``: the program ends with the request's calls.
    ``service_ms``: what the program has had at other servers.
    """

    program: str | None = None
    thread: str = ""
    end: bool = False
    transient: bool = False
    service_ms: float = 0.0

    def for_prompt(self, index: int) -> Identity:
        """The identity of one prompt of a batch: the same program, a thread of its own."""
        return replace(self, thread=f"{self.thread}.{index}" if self.thread else str(index))

    def or_own(self, request_id: str) -> Identity:
        """This identity, or for a request that named no program one of its own."""
        return self if self.program is not None else Identity(request_id, transient=True)


ANONYMOUS = Identity()


def identity_of_body(body: bytes) -> Identity:
    """The identity in a request body; raises InvalidProgram.

    A body that is not a JSON object is left to the endpoint to refuse.
    """
    if not any(marker in body for marker in MARKERS):
        return ANONYMOUS
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ANONYMOUS
    return identity_of_fields(fields) if isinstance(fields, dict) else ANONYMOUS


def identity_of_fields(fields: Mapping[str, Any]) -> Identity:
    """The identity in a parsed body; raises InvalidProgram that names the field."""
    program = fields.get("program")
    session_id = fields.get("session_id")
    if program is None:
        return Identity(check_id("session_id", session_id)) if session_id is not None else ANONYMOUS
    if not isinstance(program, dict):
        raise InvalidProgram("program", f"must be an object, got {type(program).__name__}")
    for name in program:
        if name not in PROGRAM_FIELDS:
            known = ", ".join(PROGRAM_FIELDS)
            raise InvalidProgram(f"program.{name}", f"is not a known field (known: {known})")
    if "id" not in program:
        raise InvalidProgram("program.id", "is required")
    end = program.get("end", False)
    if not isinstance(end, bool):
        raise InvalidProgram("program.end", f"must be true or false, got {type(end).__name__}")
    thread = program.get("thread")
    identity = Identity(
        check_id("program.id", program["id"]),
        check_id("program.thread", thread) if thread is not None else "",
        end,
        service_ms=check_service("program.service_ms", program.get("service_ms", 0.0)),
    )
    if session_id is not None and session_id != identity.program:
        raise InvalidProgram("session_id", "names another program than program.id")
    return identity


def check_id(field: str, value: object) -> str:
    """*value* if it is 1 to 256 printable characters; raises InvalidProgram for *field*."""
    if not isinstance(value, str):
        raise InvalidProgram(field, f"must be a string, got {type(value).__name__}")
    if not 1 <= len(value) <= MAX_ID_CHARACTERS:
        raise InvalidProgram(
            field, f"must have 1 to {MAX_ID_CHARACTERS} characters, got {len(value)}"
        )
    if not value.isprintable():
        raise InvalidProgram(field, "must have printable characters only")
    return value


def check_service(field: str, value: object) -> float:
    """*value* if it is a finite number of milliseconds >= 0; raises InvalidProgram for *field*."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidProgram(field, f"must be a number, got {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise InvalidProgram(field, f"must be finite and at least 0, got {value}")
    return float(value)
