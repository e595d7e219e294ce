"""What reading a request's identity and heading its response adds, in CPU time.

    python -m bench.identity --out bench/results/identity

The same requests go through an endpoint that reads its body and answers, with our middleware in
front of it and without; the difference is what a request pays. No server and no model: what is
measured is all that happens between them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from autellix_sgl.core import ProcessTable, policy_named
from autellix_sgl.runtime.http.identity_middleware import IdentityMiddleware
from autellix_sgl.runtime.identity import IdentityReader
from autellix_sgl.runtime.tokenizer.call_progress import REQUEST_ATTRIBUTE, ProgramRequest, Progress
from bench.report_file import add_output_argument, write_result

LIMIT_US = 50.0
CHUNK = 65_536
SESSION = "54c1eb09-bc4c-4d2f-98eb-6d2ab2d5e2fe"
LINE = 'def f(x):\n    return "the quick brown fox jumps over the lazy dog", x  # and back\n'

# What comes with any request, from a client library or a proxy.
COMMON = {
    "host": "127.0.0.1:30000",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
    "user-agent": "OpenAI/Python 2.6.1",
    "content-type": "application/json",
    "authorization": "Bearer k",
    "x-stainless-lang": "python",
    "x-stainless-os": "Linux",
    "x-stainless-runtime": "CPython",
    "x-request-id": SESSION,
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}
CLAUDE = {"x-claude-code-session-id": SESSION, "x-claude-code-agent-id": "a1b2c3"}
CLAUDE_USER = {"user_id": json.dumps({"device_id": "d" * 64, "session_id": SESSION})}


@dataclass(frozen=True)
class Sample:
    """A request as a client sends it; ``kilobytes`` of conversation in its body."""

    name: str
    kilobytes: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        everything = {**COMMON, **self.headers}
        return [(name.encode(), value.encode()) for name, value in everything.items()]

    def body(self) -> bytes:
        turn = LINE * (1024 // len(LINE))
        messages = [
            {"role": "assistant" if i % 2 else "user", "content": turn}
            for i in range(max(self.kilobytes, 1))
        ]
        return json.dumps({"model": "m", "messages": messages, **self.fields}).encode()


SAMPLES = [
    Sample("names nothing", 1),
    Sample("names nothing", 32),
    Sample("x-program-id", 32, {"x-program-id": "run-17", "x-program-thread": "planner"}),
    Sample("program in the body", 32, fields={"program": {"id": "run-17", "thread": "planner"}}),
    Sample("Claude Code", 32, CLAUDE, {"metadata": CLAUDE_USER}),
    Sample("Claude Code before 2.1.86", 32, fields={"metadata": CLAUDE_USER}),
    Sample("Codex", 32, {"session-id": SESSION}, {"prompt_cache_key": SESSION, "store": False}),
    Sample("OpenCode, a child", 32, {"x-session-id": "ses_2", "x-parent-session-id": "ses_1"}),
    Sample("baggage", 32, {"baggage": "userId=a,gen_ai.conversation.id=5j66;p=1,isProd=false"}),
    Sample("Claude Code", 128, CLAUDE, {"metadata": CLAUDE_USER}),
    Sample("Claude Code", 512, CLAUDE, {"metadata": CLAUDE_USER}),
]


class Manager:
    """What the middleware asks of the tokenizer manager, over a real table."""

    def __init__(self) -> None:
        self._reader = IdentityReader()
        self._table = ProcessTable(policy_named("atlas"), lease_s=60.0, max_programs=1000)

    def identify(self, headers: Any, body: bytes, *, tenant: str, stores: bool) -> ProgramRequest:
        identity = self._reader.read(headers, body, tenant=tenant).identity
        program = identity.program
        if program is not None:
            program = self._table.root_of(program, parent=identity.parent, tenant=tenant)
        return ProgramRequest(identity, Progress(program), continuable=stores)


@dataclass(frozen=True)
class Report:
    """What a scheduler says of a call, as far as headers go."""

    level: int = 2
    wait_ms: float = 12.5


async def endpoint(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body as SGLang's endpoints do, and answers as one call would."""
    await Request(scope, receive).body()
    if REQUEST_ATTRIBUTE in scope:
        scope[REQUEST_ATTRIBUTE].progress.note(Report())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def microseconds(app: Any, sample: Sample, repeats: int) -> float:
    """CPU time of one request through *app*, the median of ten rounds."""
    headers, body = sample.raw_headers(), sample.body()
    pieces = [body[i : i + CHUNK] for i in range(0, len(body), CHUNK)]
    messages = [
        {"type": "http.request", "body": piece, "more_body": i + 1 < len(pieces)}
        for i, piece in enumerate(pieces)
    ]

    async def send(_: Any) -> None:
        return

    async def once() -> None:
        coming = iter(messages)

        async def receive() -> Any:
            return next(coming)

        await app({"type": "http", "path": "/v1/messages", "headers": headers}, receive, send)

    rounds: list[float] = []
    for _ in range(10):
        began = time.process_time()
        for _ in range(repeats):
            await once()
        rounds.append((time.process_time() - began) / repeats * 1e6)
    return statistics.median(rounds)


async def measure(repeats: int) -> list[dict[str, Any]]:
    """A row for each sample."""
    with_ours = IdentityMiddleware(endpoint, manager=Manager())  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = []
    for sample in SAMPLES:
        bare = await microseconds(endpoint, sample, repeats)
        added = await microseconds(with_ours, sample, repeats) - bare
        size = len(sample.body()) / 1024
        rows.append({"request": sample.name, "body_kib": round(size), "added_us": added})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.identity", description=__doc__)
    parser.add_argument("--repeats", type=int, default=500, help="requests a round (default: 500)")
    add_output_argument(parser)
    args = parser.parse_args(argv)
    rows = asyncio.run(measure(args.repeats))
    result = {"limit_us": LIMIT_US, "repeats": args.repeats, "rows": rows}
    write_result(args.out, result, table=rows)


if __name__ == "__main__":
    main()
