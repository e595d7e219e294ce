"""From a request's headers and body to the values of the table's fields, unchecked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from autellix_sgl.errors import InvalidProgram
from autellix_sgl.runtime.identity.sources import (
    OWN,
    SERVICE_FIELDS,
    SOURCES,
    USER_FIELDS,
    Field,
    Place,
)

Values = dict[str, Any]
"""A field's key -> what the request has there. A header that is not UTF-8 is left as bytes."""

STORE = "store"
"""Not of the table: whether a response of the Responses API may be continued."""

_STRICT = frozenset(
    [field.key for source in SOURCES if source.strict for field in source.fields()]
    + [field.key for field in SERVICE_FIELDS]
)
_FIELDS = {field.key: field for source in SOURCES for field in source.fields()}
_FIELDS |= {field.key: field for field in (*USER_FIELDS, *SERVICE_FIELDS)}

_HEADERS = {field.name.encode(): field for field in _FIELDS.values() if field.place is Place.HEADER}
_BAGGAGE = {field.name: field for field in _FIELDS.values() if field.place is Place.BAGGAGE}
_OWN_OBJECT = "program"
_OWN_MEMBERS = tuple(
    field.name.partition(".")[2]
    for field in (*OWN.fields(), *SERVICE_FIELDS)
    if field.place is Place.BODY
)


def _paths() -> dict[str, list[tuple[Field, tuple[str, ...]]]]:
    """A body member at the top level -> the table's fields in it and the way down to each."""
    paths: dict[str, list[tuple[Field, tuple[str, ...]]]] = {}
    for field in _FIELDS.values():
        if field.place is Place.BODY:
            top, *rest = field.name.split(".")
            paths.setdefault(top, []).append((field, tuple(rest)))
    return paths


_PATHS = _paths()

# Only what the table names is built while parsing; the rest, prompts above all, is skipped over.
_Body = msgspec.defstruct("_Body", [(name, Any, None) for name in (*_PATHS, STORE)])
_decoder = msgspec.json.Decoder(_Body)


def values_of_headers(headers: Iterable[tuple[bytes, bytes]]) -> Values:
    """The table's headers among a request's, whose names are in lower case as ASGI has them.

    Of a header that is there twice the first counts; raises InvalidProgram if it is one that only
    names programs and the two disagree.
    """
    values: Values = {}
    for name, raw in headers:
        field = _HEADERS.get(name)
        if field is not None:
            value = _decode(raw)
            if values.setdefault(field.key, value) != value and field.key in _STRICT:
                raise InvalidProgram(field.shown, "is given twice, with different values")
        elif name == b"baggage":
            for key, value in _baggage(raw):
                if key in _BAGGAGE:
                    values.setdefault(_BAGGAGE[key].key, value)
    return values


def values_of_body(body: bytes) -> tuple[Values, bool]:
    """The table's fields in a JSON body, and whether its response may be continued.

    A body that is not a JSON object has none, and is left to the endpoint to refuse. Raises
    InvalidProgram where an object of ours is something else.
    """
    try:
        parsed = _decoder.decode(body)
    except msgspec.DecodeError:
        return {}, False
    values: Values = {}
    for top, fields in _PATHS.items():
        value = getattr(parsed, top)
        if value is not None:
            _collect(values, top, value, fields)
    return values, getattr(parsed, STORE) is not False


def values_of_program(program: object) -> Values:
    """The table's fields in a ``program`` object that did not come over HTTP."""
    values: Values = {}
    if program is not None:
        _collect(values, _OWN_OBJECT, program, _PATHS[_OWN_OBJECT])
    return values


def _collect(
    values: Values, top: str, value: Any, fields: Iterable[tuple[Field, tuple[str, ...]]]
) -> None:
    if top == _OWN_OBJECT and isinstance(value, dict):
        _check_members(value)
    for field, path in fields:
        found = _descend(field, value, path)
        if found is not None:
            values[field.key] = found


def _check_members(program: Mapping[str, Any]) -> None:
    if program.get("id") is None:
        raise InvalidProgram(f"{_OWN_OBJECT}.id", "is required")
    for name in program:
        if name not in _OWN_MEMBERS:
            known = ", ".join(_OWN_MEMBERS)
            raise InvalidProgram(f"{_OWN_OBJECT}.{name}", f"is not a known field (known: {known})")


def _descend(field: Field, value: Any, path: tuple[str, ...]) -> Any:
    """What is at *path* in *value*, None if nothing is."""
    for depth, name in enumerate(path):
        if value is None:
            return None
        if not isinstance(value, dict):
            if field.key in _STRICT:
                above = field.name.split(".")[: depth + 1]
                raise InvalidProgram(
                    ".".join(above), f"must be an object, got {type(value).__name__}"
                )
            return None
        value = value.get(name)
    return value


def _decode(raw: bytes) -> str | bytes:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _baggage(raw: bytes) -> Iterator[tuple[str, str]]:
    """The members of a W3C ``baggage`` header; what is not one is passed over."""
    for member in raw.decode("ascii", "replace").split(","):
        pair, _, _properties = member.partition(";")
        key, equals, value = pair.partition("=")
        if equals:
            yield key.strip(), unquote(value.strip())


# What Claude Code packs into the user id: an object in JSON, or before 2.1.78 one word.
_PACKED_SESSION = re.compile(r"user_.*_session_(.+)")


def session_of_anthropic_user(user_id: object) -> str | None:
    """The session part of an Anthropic ``metadata.user_id``, None if it has none."""
    if isinstance(user_id, str) and user_id.startswith("{"):
        try:
            user_id = msgspec.json.decode(user_id)
        except msgspec.DecodeError:
            return None
    if isinstance(user_id, dict):
        session = user_id.get("session_id")
        return session if isinstance(session, str) and session else None
    match = _PACKED_SESSION.fullmatch(user_id) if isinstance(user_id, str) else None
    return match[1] if match else None
