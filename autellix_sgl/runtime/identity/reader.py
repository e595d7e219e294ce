"""Walks the table of sources over one request: which program, thread and parent does it name?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from autellix_sgl.core import Hints
from autellix_sgl.errors import InvalidProgram
from autellix_sgl.runtime.identity.extract import (
    Values,
    session_of_anthropic_user,
    values_of_body,
    values_of_headers,
    values_of_program,
)
from autellix_sgl.runtime.identity.sources import (
    OWN,
    PREVIOUS_RESPONSE,
    SERVICE_FIELDS,
    SOURCES,
    USER_FIELDS,
    Field,
    Form,
    Source,
)
from autellix_sgl.runtime.identity.values import (
    ANONYMOUS,
    Identity,
    check_count,
    check_flag,
    check_id,
    check_service,
)

NO_SOURCE = "none"
"""Counts the requests that named no program."""

_ROWS_OF: dict[str, list[int]] = {}
for _row, _source in enumerate(SOURCES):
    for _field in _source.fields():
        _ROWS_OF.setdefault(_field.key, []).append(_row)

Checked = TypeVar("Checked", str, int)

ProgramOfResponse = Callable[[str, str], str | None]
"""A tenant and a response id -> the program whose call it was, if that is known."""


@dataclass(frozen=True, slots=True)
class Reading:
    """``continuable``: the request does not forbid that its response is continued."""

    identity: Identity
    continuable: bool


class IdentityReader:
    """Reads identities and counts, by row, what was recognised and what had to be ignored."""

    def __init__(self, program_of_response: ProgramOfResponse = lambda _tenant, _id: None) -> None:
        self._program_of_response = program_of_response
        self.recognised: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()

    def read(
        self, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, tenant: str = ""
    ) -> Reading:
        """The identity in a request; raises InvalidProgram that names the field."""
        values = values_of_headers(headers)
        in_body, continuable = values_of_body(body)
        values |= in_body
        if tenant:
            self._refuse_anothers_response(values, tenant)
        return Reading(self._identify(values, tenant), continuable)

    def _identify(self, values: Values, tenant: str) -> Identity:
        identity = self._first(values, tenant) if values else None
        self.recognised[NO_SOURCE if identity is None else str(identity.source)] += 1
        user = self._user(values) if values else None
        service_ms = service_of(values) if values else 0.0
        if tenant or user or service_ms:
            return replace(identity or ANONYMOUS, tenant=tenant, user=user, service_ms=service_ms)
        return identity or ANONYMOUS

    def _first(self, values: Values, tenant: str) -> Identity | None:
        """The identity of the first row that applies, after a look at all strict ones."""
        first: Identity | None = None
        strict: tuple[Field, str] | None = None
        for row in sorted({row for key in values for row in _ROWS_OF.get(key, ())}):
            source = SOURCES[row]
            if not source.strict:
                first = first or self._recognise(source, values, tenant)
                continue
            named = strict_id(source, values)
            if named is None:
                continue
            if strict is not None and named[1] != strict[1]:
                raise InvalidProgram(
                    named[0].shown, f"names another program than {strict[0].shown}"
                )
            strict = strict or named
            first = first or strict_identity(source, named[1], values)
        return first

    def _recognise(self, source: Source, values: Values, tenant: str) -> Identity | None:
        """The identity in a row that is not ours; what cannot be used is counted, not refused."""
        for field in source.ids:
            program = self._usable(source, field, values, tenant)
            if program is not None:
                break
        else:
            return None
        thread = self._any_usable(source, source.threads, values)
        parent = self._any_usable(source, source.parents, values)
        return Identity(
            program,
            thread or "",
            end=self._ends(source, values),
            parent=parent,
            source=source.name,
        )

    def _usable(self, source: Source, field: Field, values: Values, tenant: str) -> str | None:
        value = values.get(field.key)
        if field.form is Form.ANTHROPIC_USER:
            value = session_of_anthropic_user(value)
        if value is None:
            return None
        try:
            checked = check_id(field.shown, value)
        except InvalidProgram:
            self.ignored[source.name] += 1
            return None
        if field.form is Form.RESPONSE:
            return self._program_of_response(tenant, checked)
        return checked

    def _any_usable(self, source: Source, fields: Iterable[Field], values: Values) -> str | None:
        found = (self._usable(source, field, values, "") for field in fields)
        return next((value for value in found if value is not None), None)

    def _ends(self, source: Source, values: Values) -> bool:
        try:
            return _flag(source, values)
        except InvalidProgram:
            self.ignored[source.name] += 1
            return False

    def _refuse_anothers_response(self, values: Values, tenant: str) -> None:
        """SGLang would continue any stored response, whoever asks."""
        response = values.get(PREVIOUS_RESPONSE.key)
        if isinstance(response, str) and self._program_of_response(tenant, response) is None:
            raise InvalidProgram(PREVIOUS_RESPONSE.shown, "is no response of yours")

    def _user(self, values: Values) -> str | None:
        for field in USER_FIELDS:
            if field.key in values:
                try:
                    return check_id(field.shown, values[field.key])
                except InvalidProgram:
                    self.ignored[field.name] += 1
        return None


def identity_of_program(program: object) -> Identity:
    """The identity in a ``program`` object, as a body may have one; raises InvalidProgram."""
    values = values_of_program(program)
    named = strict_id(OWN, values)
    if named is None:
        return ANONYMOUS
    return replace(strict_identity(OWN, named[1], values), service_ms=service_of(values))


def service_of(values: Values) -> float:
    """What the program has had so far as the request knows, in ms; raises InvalidProgram."""
    said = (
        check_service(field.shown, values[field.key])
        for field in SERVICE_FIELDS
        if field.key in values
    )
    return max(said, default=0.0)


def strict_id(source: Source, values: Values) -> tuple[Field, str] | None:
    """The id that a strict row names and where, None if it does not; raises InvalidProgram."""
    named = _agreed(source.ids, values, check_id)
    if named is None and source is OWN and any(field.key in values for field in OWN.fields()):
        raise InvalidProgram(OWN.ids[0].shown, "is required")
    return named


def strict_identity(source: Source, program: str, values: Values) -> Identity:
    """The identity in a strict row whose id is *program*; raises InvalidProgram."""
    thread = _agreed(source.threads, values, check_id)
    parent = _agreed(source.parents, values, check_id)
    return Identity(
        program,
        thread[1] if thread else "",
        end=_flag(source, values),
        parent=parent[1] if parent else None,
        source=source.name,
        hints=_hints(source, values),
    )


def _hints(source: Source, values: Values) -> Hints | None:
    """What the row's client expects of the program; raises InvalidProgram."""
    calls = _agreed(source.calls, values, check_count)
    tokens = _agreed(source.tokens, values, check_count)
    if calls is None and tokens is None:
        return None
    return Hints(calls[1] if calls else None, tokens[1] if tokens else None)


def _agreed(
    fields: Iterable[Field], values: Values, check: Callable[[str, object], Checked]
) -> tuple[Field, Checked] | None:
    """The one value of *fields* and the first that has it; raises InvalidProgram."""
    found: tuple[Field, Checked] | None = None
    for field in fields:
        if field.key not in values:
            continue
        value = check(field.shown, values[field.key])
        if found is not None and value != found[1]:
            raise InvalidProgram(field.shown, f"disagrees with {found[0].shown}")
        found = found or (field, value)
    return found


def _flag(source: Source, values: Values) -> bool:
    """Whether any of the row's end fields says so; raises InvalidProgram for any that is bad."""
    said = [
        check_flag(field.shown, values[field.key]) for field in source.ends if field.key in values
    ]
    return any(said)
