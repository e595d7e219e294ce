"""Which program a request belongs to, read from its body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.errors import InvalidProgram
from autellix_sgl.runtime.identity import ANONYMOUS, Identity, identity_of_body


def identity(**fields: Any) -> Identity:
    return identity_of_body(json.dumps(fields).encode())


def test_our_field_says_program_thread_and_end() -> None:
    """All three, and the last two may be left out."""
    assert identity(program={"id": "a", "thread": "t", "end": True}) == Identity("a", "t", True)
    assert identity(program={"id": "a"}) == Identity("a")


def test_our_field_brings_the_service_from_elsewhere() -> None:
    """A number of milliseconds; what is none is refused by name."""
    assert identity(program={"id": "a", "service_ms": 12}).service_ms == 12.0
    assert identity(program={"id": "a"}).service_ms == 0
    for bad in (-1, "12", None, True, []):
        with pytest.raises(InvalidProgram, match=r"program\.service_ms"):
            identity(program={"id": "a", "service_ms": bad})
    for literal in (b"NaN", b"Infinity"):
        body = b'{"program": {"id": "a", "service_ms": ' + literal + b"}}"
        assert identity_of_body(body) == ANONYMOUS  # no JSON: the endpoint's to refuse


def test_a_session_id_names_a_program() -> None:
    """SGLang's own field; beside ours it must agree."""
    assert identity(session_id="s") == Identity("s")
    assert identity(session_id="a", program={"id": "a", "thread": "t"}) == Identity("a", "t")
    with pytest.raises(InvalidProgram, match="session_id"):
        identity(session_id="b", program={"id": "a"})


def test_a_body_that_names_none_is_anonymous() -> None:
    """Nothing is parsed when the words do not occur; null is as good as absent."""
    assert identity(text="hello") is ANONYMOUS
    assert identity(program=None, session_id=None) == ANONYMOUS
    assert identity_of_body(b'{"text": "a \\"program\\" in a prompt"}') is ANONYMOUS


def test_each_prompt_of_a_batch_is_a_thread_of_its_own() -> None:
    """Below the request's own thread if it has one."""
    assert Identity("a").for_prompt(2).thread == "2"
    assert Identity("a", "t").for_prompt(2).thread == "t.2"


def test_an_unnamed_request_gets_a_transient_program() -> None:
    """A named one keeps its own."""
    assert ANONYMOUS.or_own("rid") == Identity("rid", transient=True)
    assert Identity("a").or_own("rid") == Identity("a")


SCALAR = st.none() | st.booleans() | st.integers() | st.sampled_from(["", "a", "a" * 300, "\n"])
OBJECT = st.dictionaries(st.sampled_from(["id", "thread", "end", "service_ms", "other"]), SCALAR)


@given(st.fixed_dictionaries({}, optional={"program": SCALAR | OBJECT, "session_id": SCALAR}))
def test_any_body_gives_an_identity_or_names_the_field(fields: dict[str, Any]) -> None:
    """Whatever is sent: a valid identity, or InvalidProgram with a field of ours."""
    try:
        found = identity_of_body(json.dumps(fields).encode())
    except InvalidProgram as error:
        named = error.field
    else:
        named = "program"
        assert found.program is None or 1 <= len(found.program) <= 256
        assert found.program is None or found.program.isprintable()
    assert named.split(".")[0] in ("program", "session_id")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_json_are_left_to_the_endpoint(body: bytes) -> None:
    """Never an error of ours for a body that is not a JSON object."""
    assert identity_of_body(b'"program"' + body) == ANONYMOUS
