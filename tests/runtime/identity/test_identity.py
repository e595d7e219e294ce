"""Which program a request belongs to, read from its headers and body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import Hints
from autellix_sgl.errors import InvalidProgram
from autellix_sgl.runtime.identity import ANONYMOUS, Identity, IdentityReader, identity_of_program
from autellix_sgl.runtime.identity.sources import (
    MAX_ID_CHARACTERS,
    NEVER_A_PROGRAM,
    SOURCES,
    Field,
    Place,
    Source,
)
from tests.agents import REQUESTS, AgentRequest


def read(headers: dict[str, str] | None = None, *, tenant: str = "", **body: Any) -> Identity:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return IdentityReader().read(raw, json.dumps(body).encode(), tenant=tenant).identity


def own(program: str, thread: str = "", **more: Any) -> Identity:
    return Identity(program, thread, source="program", **more)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.row)
def test_what_an_agent_sends_names_its_program(request_: AgentRequest) -> None:
    """Each row of the table, with the headers and fields of a client that never heard of us."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **request_.body}
    reader = IdentityReader()
    reading = reader.read(request_.raw_headers(), json.dumps(body).encode())
    assert reading.identity == request_.identity
    assert reader.recognised == {request_.row: 1}
    assert not reader.ignored


def test_every_row_has_an_agent_that_sends_it() -> None:
    """A row nobody sends would be untested, an agent without a row unrecognised."""
    assert {request.row for request in REQUESTS} == {source.name for source in SOURCES}


def set_field(field: Field, value: object, headers: dict[str, str], body: dict[str, Any]) -> None:
    if field.place is Place.HEADER:
        headers[field.name] = str(value)
    elif field.place is Place.BAGGAGE:
        headers["baggage"] = f"{field.name}={value}"
    else:
        *above, last = field.name.split(".")
        for name in above:
            body = body.setdefault(name, {})
        body[last] = value


def plain_id(source: Source) -> Field:
    """An id field of the row that a test can fill without more ado."""
    return source.ids[-1] if source.name == "responses" else source.ids[0]


def value_of(source: Source, program: str) -> str:
    packed = source.name == "anthropic-metadata"
    return f"user_x_account_y_session_{program}" if packed else program


@pytest.mark.parametrize("upper", range(len(SOURCES) - 1), ids=lambda row: SOURCES[row].name)
def test_the_first_row_that_applies_wins(upper: int) -> None:
    """Against every row below it; where both are strict they have to agree."""
    for lower in range(upper + 1, len(SOURCES)):
        headers: dict[str, str] = {}
        body: dict[str, Any] = {}
        for row in (upper, lower):
            source = SOURCES[row]
            set_field(plain_id(source), value_of(source, f"row-{row}"), headers, body)
        if SOURCES[upper].strict and SOURCES[lower].strict:
            with pytest.raises(InvalidProgram) as refused:
                read(headers, **body)
            assert refused.value.field == plain_id(SOURCES[lower]).shown
        else:
            assert read(headers, **body).source == SOURCES[upper].name


def test_our_fields_can_be_headers_and_body_at_once() -> None:
    """They add up if they agree, and are refused by name if they do not."""
    headers = {"x-program-id": "a", "x-program-thread": "t"}
    assert read(headers, program={"id": "a", "end": True}) == own("a", "t", end=True)
    with pytest.raises(InvalidProgram, match=r"program\.id: disagrees with x-program-id"):
        read(headers, program={"id": "b"})
    with pytest.raises(InvalidProgram, match=r"program\.thread"):
        read(headers, program={"id": "a", "thread": "u"})


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"x-program-thread": "t"}, "x-program-id"),
        ({"x-program-end": "true"}, "x-program-id"),
        ({"x-program-id": ""}, "x-program-id"),
        ({"x-program-id": "x" * 257}, "x-program-id"),
        ({"x-program-id": "a\x7fb"}, "x-program-id"),
        ({"x-program-id": "a", "x-program-end": "perhaps"}, "x-program-end"),
        ({"x-program-id": "a", "x-program-thread": "\x01"}, "x-program-thread"),
        ({"x-program-id": "a", "x-program-parent": ""}, "x-program-parent"),
    ],
)
def test_a_bad_header_of_ours_is_refused_by_name(headers: dict[str, str], field: str) -> None:
    """Length, characters, a flag that is none, or a thread without a program."""
    with pytest.raises(InvalidProgram) as refused:
        read(headers)
    assert refused.value.field == field


def test_what_a_client_expects_of_its_program_is_read() -> None:
    """In headers, in the body, or one in each."""
    headers = {"x-program-id": "a", "x-program-expected-calls": "12"}
    assert read(headers).hints == Hints(calls=12)
    assert read(headers, program={"id": "a", "expected_tokens": 900}).hints == Hints(12, 900)
    assert read({}, program={"id": "a", "expected_calls": 1}).hints == Hints(calls=1)
    assert read({"x-program-id": "a"}).hints is None


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "many", "", "1e3", [3], 10**9 + 1, "9" * 5000])
@pytest.mark.parametrize("name", ["expected_calls", "expected_tokens"])
def test_an_expectation_that_is_none_is_refused_by_name(name: str, bad: object) -> None:
    with pytest.raises(InvalidProgram, match="whole number from 1 to") as refused:
        read({}, program={"id": "a", name: bad})
    assert refused.value.field == f"program.{name}"
    if isinstance(bad, str):
        header = f"x-program-{name.replace('_', '-')}"
        with pytest.raises(InvalidProgram) as refused:
            read({"x-program-id": "a", header: bad})
        assert refused.value.field == header


def test_expectations_must_agree_and_belong_to_a_program() -> None:
    headers = {"x-program-id": "a", "x-program-expected-calls": "12"}
    with pytest.raises(InvalidProgram, match="disagrees with x-program-expected-calls"):
        read(headers, program={"id": "a", "expected_calls": 13})
    with pytest.raises(InvalidProgram, match="x-program-id: is required"):
        read({"x-program-expected-calls": "12"})


def test_a_header_that_is_not_utf8_is_refused_if_it_is_ours_and_ignored_if_not() -> None:
    """Ids are text; what other people's headers hold is their affair."""
    reader = IdentityReader()
    with pytest.raises(InvalidProgram, match="x-program-id: must be UTF-8"):
        reader.read([(b"x-program-id", b"\xff")], b"{}")
    assert reader.read([(b"x-session-id", b"\xff")], b"{}").identity == ANONYMOUS
    assert reader.ignored == {"x-session-id": 1}
    assert reader.read([(b"x-program-id", "läuft".encode())], b"{}").identity == own("läuft")


def test_a_header_given_twice_must_not_contradict_itself() -> None:
    """Ours is refused; of another the first counts."""
    reader = IdentityReader()
    with pytest.raises(InvalidProgram, match="twice"):
        reader.read([(b"x-program-id", b"a"), (b"x-program-id", b"b")], b"{}")
    twice = [(b"x-session-id", b"a"), (b"x-session-id", b"b")]
    assert reader.read(twice, b"{}").identity.program == "a"


@pytest.mark.parametrize(
    "source", [source for source in SOURCES if not source.strict], ids=lambda source: source.name
)
def test_a_value_that_cannot_be_an_id_is_ignored_and_the_next_row_applies(source: Source) -> None:
    """A client that uses the header for something else must keep working; it is counted."""
    headers: dict[str, str] = {}
    body: dict[str, Any] = {}
    for field in source.ids:
        set_field(field, value_of(source, "x" * (MAX_ID_CHARACTERS + 1)), headers, body)
        break
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    reader = IdentityReader()
    assert reader.read(raw, json.dumps(body).encode()).identity == ANONYMOUS
    assert reader.ignored == {source.name: 1}


def test_a_bad_thread_beside_a_good_id_costs_only_the_thread() -> None:
    """Of a row that is not ours."""
    headers = {"x-claude-code-session-id": "s", "x-claude-code-agent-id": "x" * 300}
    assert read(headers) == Identity("s", source="claude-code")
    headers = {"x-dynamo-session-id": "s", "x-dynamo-session-final": "soon"}
    assert read(headers) == Identity("s", source="dynamo")


@pytest.mark.parametrize("name", NEVER_A_PROGRAM)
def test_ids_of_single_requests_name_no_program(name: str) -> None:
    """Otherwise every call of an agent would look like a newcomer."""
    assert read({name: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}) == ANONYMOUS


def test_a_user_is_kept_beside_the_program_and_never_names_one() -> None:
    """safety_identifier before user; one that cannot be used is left out."""
    assert read(user="alice") == Identity(user="alice")
    named = read({"x-program-id": "a"}, user="alice", safety_identifier="h4sh")
    assert named == own("a", user="h4sh")
    assert read(user=["alice"]) == ANONYMOUS
    assert read(metadata={"user_id": "alice"}) == ANONYMOUS


def test_what_the_program_has_had_comes_with_the_identity() -> None:
    """By header or body, however the program was named; of several the largest."""
    assert read({"x-program-id": "a", "x-program-service-ms": "12.5"}) == own("a", service_ms=12.5)
    behind = {"x-smg-routing-key": "a", "x-request-id-program-service-ms": "3"}
    assert read(behind) == Identity("a", source="smg", service_ms=3.0)
    assert read(program={"id": "a", "service_ms": 7}) == own("a", service_ms=7.0)
    assert read(behind, program={"id": "a", "service_ms": 7}).service_ms == 7.0
    assert identity_of_program({"id": "a", "service_ms": 7}) == own("a", service_ms=7.0)


@pytest.mark.parametrize("bad", [True, "x", -1, 10**400, [1], "nan", "inf"])
def test_service_that_is_no_number_of_milliseconds_is_refused(bad: object) -> None:
    """Finite and at least 0."""
    with pytest.raises(InvalidProgram, match=r"program\.service_ms"):
        read(program={"id": "a", "service_ms": bad})
    if isinstance(bad, str):
        with pytest.raises(InvalidProgram, match="x-program-service-ms"):
            read({"x-program-service-ms": bad})


def test_the_tenant_comes_with_the_identity() -> None:
    """Also when the request names no program."""
    assert read(tenant="team") == Identity(tenant="team")
    assert read({"x-program-id": "a"}, tenant="team") == own("a", tenant="team")


def test_a_stored_response_leads_to_its_program() -> None:
    """By tenant; one that is not known names nothing, and a tenant may not name another's."""
    known = {("", "resp_1"): "run", ("team", "resp_2"): "theirs"}
    reader = IdentityReader(lambda tenant, response: known.get((tenant, response)))
    body = json.dumps({"previous_response_id": "resp_1"}).encode()
    assert reader.read([], body).identity == Identity("run", source="responses")
    assert reader.read([], b'{"previous_response_id": "resp_9"}').identity == ANONYMOUS
    for headers in ([], [(b"x-program-id", b"a")]):
        with pytest.raises(InvalidProgram, match="previous_response_id"):
            reader.read(headers, body, tenant="team")


def test_store_false_says_that_nothing_will_continue() -> None:
    """Left out or null it may."""
    reader = IdentityReader()
    assert not reader.read([], b'{"store": false}').continuable
    for body in (b"{}", b'{"store": null}', b'{"store": true}'):
        assert reader.read([], body).continuable


def test_a_body_that_names_none_is_anonymous() -> None:
    """Words inside of a prompt or deeper down do not count; null is as good as absent."""
    assert read(text='{"program": {"id": "a"}}') == ANONYMOUS
    assert read(program=None, session_id=None, metadata=None) == ANONYMOUS
    assert read(sampling_params={"session_id": "s"}, nvext={"agent_hints": {}}) == ANONYMOUS


def test_each_prompt_of_a_batch_is_a_thread_of_its_own() -> None:
    """Below the request's own thread if it has one."""
    assert Identity("a").for_prompt(2).thread == "2"
    assert Identity("a", "t").for_prompt(2).thread == "t.2"


def test_an_unnamed_request_gets_a_program_of_its_own() -> None:
    """Which ends with it, unless a later request can continue it; a named one keeps its own."""
    assert ANONYMOUS.or_own("rid") == Identity("rid", transient=True)
    assert ANONYMOUS.or_own("resp", kept=True) == Identity("resp")
    assert Identity("a").or_own("rid") == Identity("a")
    assert Identity(tenant="t", user="u").or_own("rid").tenant == "t"


def test_a_program_object_may_come_without_http() -> None:
    """The same fields and the same errors as in a body."""
    assert identity_of_program({"id": "a", "thread": "t"}) == own("a", "t")
    assert identity_of_program(None) == ANONYMOUS
    for bad in ("a", {}, {"id": "a", "ends": True}, {"id": 3}):
        with pytest.raises(InvalidProgram, match="program"):
            identity_of_program(bad)


SCALAR = st.none() | st.booleans() | st.integers() | st.sampled_from(["", "a", "a" * 300, "\n"])
OWN_NAMES = ("id", "thread", "end", "parent", "service_ms", "other")
OBJECT = st.dictionaries(
    st.sampled_from(["id", "thread", "end", "parent", "service_ms", "x"]), SCALAR
)
STRICT_NAMES = ("program", "program_id", "job_id", "is_last_step", "nvext", "session_id")
OTHER_NAMES = ("metadata", "conversation", "prompt_cache_key", "user")
ANY_FIELDS = dict.fromkeys((*STRICT_NAMES, *OTHER_NAMES), SCALAR | OBJECT)


@given(st.fixed_dictionaries({}, optional=ANY_FIELDS))
def test_any_body_gives_an_identity_or_names_the_field(fields: dict[str, Any]) -> None:
    """Whatever is sent: a valid identity, or InvalidProgram with a field that is refused."""
    try:
        found = read(**fields)
    except InvalidProgram as error:
        refused, program = error.field.split(".")[0], None
    else:
        refused, program = None, found.program
    assert refused is None or refused in STRICT_NAMES
    assert program is None or (1 <= len(program) <= MAX_ID_CHARACTERS and program.isprintable())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted({f.name for s in SOURCES if not s.strict for f in s.fields()})),
            st.binary(max_size=40),
        )
    )
)
def test_other_peoples_headers_are_never_an_error(headers: list[tuple[str, bytes]]) -> None:
    """Any bytes in any of them, in any number."""
    raw = [(name.encode(), value) for name, value in headers] + [(b"baggage", b"=;,%ff=")]
    IdentityReader().read(raw, b"{}")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_json_are_left_to_the_endpoint(body: bytes) -> None:
    """Never an error of ours for a body that is not a JSON object."""
    assert IdentityReader().read([], b'"program"' + body).identity == ANONYMOUS
