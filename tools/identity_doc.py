"""Write ``docs/identity.md`` from the table in the code, or check that it is what that says.

python tools/identity_doc.py --write
python tools/identity_doc.py --check      exit 1 if the file is stale
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from written_doc import command, table

from autellix_sgl.runtime.identity.sources import (
    MAX_ID_CHARACTERS,
    NEVER_A_PROGRAM,
    SERVICE_FIELDS,
    SOURCES,
    USER_FIELDS,
    Field,
    Form,
    Place,
    Source,
)

TEXT = """\
# Which program is a request of?

*Written by `tools/identity_doc.py` from `autellix_sgl/runtime/identity/sources.py`; do not edit it
by hand.*

Most agents already say, in some header or field, which of their calls belong together. The server
knows the ones below, so they need no change; on `/generate`, `/v1/completions`,
`/v1/chat/completions`, `/v1/responses` and `/v1/messages`, streamed or not. The first row that
applies names the program. A request to which none applies is a program of its own that ends with
it.

{table}

Rows are named as in `source` of a [program](api.md#programs) and in the metrics'
`source` label. The thread tells chains of calls inside a program apart; it is counted, not used for
scheduling.

## What can be an id

1 to {characters} printable characters; a header's bytes are UTF-8. Another value, or one of another
type, is

- **refused** with HTTP 400 that names the field, in the rows whose fields exist to name a program;
- **ignored** and counted in the others, whose fields mean something else to somebody else.

In the rows that refuse, all ids of one request must agree, and so must a header and a body field of
the first row. The refusal names the field that differs. `x-program-thread`, `-parent` or `-end`
without an id is refused too.

## Parents and children

A session with a parent is a thread of the parent's program, and so are its own children: all of a
run's calls are one program, whatever sessions it has opened. The thread is the child's id, followed
by a dot and its own thread if it has one. A child that was seen with its parent once is known from
then on, while the program lives. A child's end is not the program's.

## Service had elsewhere

A request may bring what its program has had, in milliseconds, as an earlier response's
`x-program-service-ms` told, in
{services}.
The largest counts, and the server takes it over if it knows of less, as one of several servers does
to which a program comes anew ([deploy.md](deploy.md)). A number that is old or told twice changes
nothing. What is not finite and at least 0 is refused.

## The end

A call whose row says so is the program's last: it is forgotten when the call is done. Otherwise
`DELETE /v1/programs/{{id}}` or the lease ends it.

## Stored responses

With SGLang's `--enable-response-store`, a request to `/v1/responses` that names nothing opens a
program with the response's id, which is kept for as long as its lease: a later request may continue
the response by `previous_response_id`, and joins it. Without the store, or with `"store": false`,
nothing can be continued and nothing is kept.

## Users and tenants

The first of {users} is the end user. It is kept beside the program and shown with it; it never
names one, since a user has many runs at a time. {never} never name a program either: they are of
one request or trace each.

On a server with [tenants](api.md#tenants) the API key says whose a program is. The same id under
two tenants is two programs.
"""


def document() -> str:
    """The whole text of the file."""
    rows = (
        (str(rank), source.name, *_cells(source), _treatment(source), source.sent_by)
        for rank, source in enumerate(SOURCES, start=1)
    )
    head = ("", "row", "program", "thread", "parent", "end", "a bad value is", "sent by")
    return TEXT.format(
        table=table(head, rows),
        characters=MAX_ID_CHARACTERS,
        services=_listed([_shown(field) for field in SERVICE_FIELDS]),
        users=_listed([_shown(field) for field in USER_FIELDS]),
        never=_listed([f"`{name}`" for name in NEVER_A_PROGRAM]),
    )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _cells(source: Source) -> Iterable[str]:
    for fields in (source.ids, source.threads, source.parents, source.ends):
        yield ", ".join(_shown(field) for field in fields)


def _shown(field: Field) -> str:
    name = f"`{field.name}`"
    if field.form is Form.ANTHROPIC_USER:
        name = f"session part of {name}"
    if field.form is Form.RESPONSE:
        name = f"the program of {name}"
    return name if field.place is Place.HEADER else f"{name} ({field.place.value})"


def _treatment(source: Source) -> str:
    return "refused" if source.strict else "ignored"


if __name__ == "__main__":
    sys.exit(command("identity.md", document, __doc__))
