"""The table of ways in which a request names its program. The first that applies wins.

Nothing else decides: `reader` walks this table, ``tools/identity_doc.py`` writes
``docs/identity.md`` from it, and the tests send what each row's agents send.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

MAX_ID_CHARACTERS = 256
# The most calls or tokens that a client can expect of a program.
MAX_EXPECTED = 10**9


class Place(Enum):
    """Where a field is."""

    HEADER = "header"
    BODY = "body"
    BAGGAGE = "baggage"


class Form(Enum):
    """How a field's value holds the id."""

    PLAIN = "is the id"
    ANTHROPIC_USER = "holds a session id among others"
    RESPONSE = "is an earlier response, whose program this is"


@dataclass(frozen=True, slots=True)
class Field:
    """A header, a path in the JSON body, or a member of W3C baggage.

    ``key`` is unique over all places: the same name can be a header and a body field.
    """

    place: Place
    name: str
    form: Form = Form.PLAIN

    @property
    def key(self) -> str:
        return f"{self.place.value} {self.name}"

    @property
    def shown(self) -> str:
        """The name as an error message and the documentation have it."""
        return f"baggage {self.name}" if self.place is Place.BAGGAGE else self.name


def header(name: str) -> Field:
    """A request header; *name* in lower case, as ASGI has it."""
    return Field(Place.HEADER, name)


def body(path: str, form: Form = Form.PLAIN) -> Field:
    """A member of the JSON body, dots leading into objects."""
    return Field(Place.BODY, path, form)


def baggage(key: str) -> Field:
    """A member of the ``baggage`` header."""
    return Field(Place.BAGGAGE, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One row: the fields that hold the program's id, and those that say more if it is there.

    ``name`` labels the row in metrics. ``strict``: the fields exist to name a program, so a value
    that cannot be used is the sender's mistake and refused (HTTP 400), and all strict ids of a
    request must agree. The fields of other rows have a life of their own: an unusable value is
    ignored and counted. ``calls`` and ``tokens`` say how many the program will make and generate in
    all, as far as its client knows; only a strict row has them.
    """

    name: str
    ids: tuple[Field, ...]
    threads: tuple[Field, ...] = ()
    parents: tuple[Field, ...] = ()
    ends: tuple[Field, ...] = ()
    calls: tuple[Field, ...] = ()
    tokens: tuple[Field, ...] = ()
    strict: bool = False
    sent_by: str

    def fields(self) -> Iterator[Field]:
        """All of the row's fields."""
        yield from (*self.ids, *self.threads, *self.parents, *self.ends)
        yield from (*self.calls, *self.tokens)


PREVIOUS_RESPONSE = body("previous_response_id", Form.RESPONSE)

OWN = Source(
    name="program",
    ids=(header("x-program-id"), body("program.id")),
    threads=(header("x-program-thread"), body("program.thread")),
    parents=(header("x-program-parent"), body("program.parent")),
    ends=(header("x-program-end"), body("program.end")),
    calls=(header("x-program-expected-calls"), body("program.expected_calls")),
    tokens=(header("x-program-expected-tokens"), body("program.expected_tokens")),
    strict=True,
    sent_by="clients that know this server, `autellix_sgl.program`",
)

SOURCES: tuple[Source, ...] = (
    OWN,
    Source(
        name="program_id",
        ids=(body("program_id"),),
        strict=True,
        sent_by="ThunderAgent",
    ),
    Source(
        name="job_id",
        ids=(body("job_id"),),
        ends=(body("is_last_step"),),
        strict=True,
        sent_by="Continuum",
    ),
    Source(
        name="nvext",
        ids=(body("nvext.agent_context.session_id"), body("nvext.agent_context.program_id")),
        parents=(
            body("nvext.agent_context.parent_session_id"),
            body("nvext.agent_context.parent_program_id"),
        ),
        ends=(body("nvext.agent_context.session_final"),),
        strict=True,
        sent_by="Dynamo clients",
    ),
    Source(
        name="claude-code",
        ids=(header("x-claude-code-session-id"),),
        threads=(header("x-claude-code-agent-id"),),
        sent_by="Claude Code; its agents, whoever their parent is, share the session",
    ),
    Source(
        name="session-id",
        ids=(header("session-id"), header("session_id")),
        threads=(header("thread-id"),),
        sent_by="Codex, pi",
    ),
    Source(
        name="x-session-id",
        ids=(header("x-session-id"),),
        parents=(header("x-parent-session-id"),),
        sent_by="OpenCode, OpenRouter clients, harbor",
    ),
    Source(
        name="x-session-affinity",
        ids=(header("x-session-affinity"),),
        parents=(header("x-parent-session-id"),),
        sent_by="OpenCode, pi; Fireworks and Cloudflare clients",
    ),
    Source(
        name="x-opencode-session",
        ids=(header("x-opencode-session"),),
        parents=(header("x-parent-session-id"),),
        sent_by="OpenCode Zen and Go clients",
    ),
    Source(name="amp", ids=(header("x-amp-thread-id"),), sent_by="Amp"),
    Source(name="qwen-code", ids=(header("x-qwen-code-session-id"),), sent_by="Qwen Code"),
    Source(name="grok", ids=(header("x-grok-conv-id"),), sent_by="xAI clients"),
    Source(
        name="helicone",
        ids=(header("helicone-session-id"),),
        threads=(header("helicone-session-path"),),
        sent_by="applications that log to Helicone",
    ),
    Source(name="bifrost", ids=(header("x-bf-session-id"),), sent_by="Bifrost"),
    Source(name="gproxy", ids=(header("x-gproxy-session-id"),), sent_by="GPROXY"),
    Source(name="litellm", ids=(header("x-litellm-session-id"),), sent_by="LiteLLM"),
    Source(
        name="dynamo",
        ids=(header("x-dynamo-session-id"),),
        parents=(header("x-dynamo-parent-session-id"),),
        ends=(header("x-dynamo-session-final"),),
        sent_by="Dynamo clients, AIPerf",
    ),
    Source(
        name="smg",
        ids=(header("x-smg-routing-key"),),
        sent_by="clients of SGLang's gateway with its `manual` policy",
    ),
    Source(
        name="session_id",
        ids=(body("session_id"),),
        strict=True,
        sent_by="SGLang's own field; vLLM and OpenRouter clients",
    ),
    Source(
        name="anthropic-metadata",
        ids=(body("metadata.user_id", Form.ANTHROPIC_USER),),
        sent_by="Claude Code up to 2.1.85, its imitators",
    ),
    Source(
        name="responses",
        ids=(PREVIOUS_RESPONSE, body("conversation.id"), body("conversation")),
        sent_by="clients of the Responses API that continue a stored response",
    ),
    Source(
        name="prompt_cache_key",
        ids=(body("prompt_cache_key"),),
        sent_by="Codex; OpenAI clients that ask for cache locality",
    ),
    Source(
        name="baggage",
        ids=(baggage("gen_ai.conversation.id"),),
        threads=(baggage("gen_ai.agent.id"),),
        sent_by="applications traced with OpenTelemetry",
    ),
)

# Who the end user is: kept beside the program, never a program. A user has many runs at a time.
USER_FIELDS = (body("safety_identifier"), body("user"))

# What the program has had so far, as an earlier response told: for a server that has not seen it.
# SGLang's gateway passes on of a request's headers only a few; those that begin with x-request-id-
# are among them.
SERVICE_FIELDS = (
    header("x-program-service-ms"),
    header("x-request-id-program-service-ms"),
    body("program.service_ms"),
)

# Widely sent, and of one request each: taking one for a program would make every call a new one.
NEVER_A_PROGRAM = ("traceparent", "x-client-request-id", "x-request-id")
