"""What agents send that have never heard of this server, a request for each row of the table.

Headers and bodies are as the named client has them, ids made up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autellix_sgl.runtime.identity import Identity

SESSION = "54c1eb09-bc4c-4d2f-98eb-6d2ab2d5e2fe"
CHILD = "0f1d2c3b-4a59-4687-9785-a6b7c8d9e0f1"


@dataclass(frozen=True)
class AgentRequest:
    """``row``: the one that should apply; ``identity``: what should be read."""

    row: str
    identity: Identity
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        return [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]


def sent(
    row: str,
    program: str = SESSION,
    *,
    thread: str = "",
    parent: str | None = None,
    end: bool = False,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
) -> AgentRequest:
    identity = Identity(program, thread, end=end, parent=parent, source=row)
    return AgentRequest(row, identity, headers or {}, body or {})


def claude_user(session: str) -> str:
    return f"user_{'ab12' * 16}_account_{CHILD}_session_{session}"


CLAUDE_METADATA = {"device_id": "d" * 64, "account_uuid": "", "session_id": SESSION}

REQUESTS = [
    sent("program", "run-17", headers={"X-Program-Id": "run-17"}),
    sent(
        "program",
        "run-17",
        thread="planner",
        parent="run-1",
        end=True,
        headers={
            "X-Program-Id": "run-17",
            "X-Program-Thread": "planner",
            "X-Program-Parent": "run-1",
            "X-Program-End": "true",
        },
    ),
    sent(
        "program",
        "run-17",
        thread="planner",
        body={"program": {"id": "run-17", "thread": "planner", "end": False}},
    ),
    sent("program_id", "swe-3", body={"program_id": "swe-3", "docker_ids": ["4f6"]}),
    sent(
        "job_id",
        "job-9",
        end=True,
        body={"job_id": "job-9", "this_func_call": "sed", "is_last_step": True},
    ),
    sent(
        "nvext",
        "wf-1:agent-2",
        parent="wf-1",
        body={
            "nvext": {
                "agent_hints": {"osl": 512},
                "agent_context": {
                    "workflow_id": "wf-1",
                    "program_id": "wf-1:agent-2",
                    "parent_program_id": "wf-1",
                },
            }
        },
    ),
    sent(
        "nvext",
        "s-2",
        parent="s-1",
        end=True,
        body={
            "nvext": {
                "agent_context": {
                    "session_id": "s-2",
                    "parent_session_id": "s-1",
                    "session_final": True,
                }
            }
        },
    ),
    sent(
        "claude-code",
        headers={"X-Claude-Code-Session-Id": SESSION, "x-app": "cli"},
        body={"metadata": {"user_id": json.dumps(CLAUDE_METADATA)}},
    ),
    sent(
        "claude-code",
        thread="a1b2c3",
        headers={
            "X-Claude-Code-Session-Id": SESSION,
            "X-Claude-Code-Agent-Id": "a1b2c3",
            "X-Claude-Code-Parent-Agent-Id": "d4e5f6",
        },
    ),
    sent(
        "session-id",
        thread=CHILD,
        headers={
            "session-id": SESSION,
            "thread-id": CHILD,
            "x-client-request-id": CHILD,
            "originator": "codex_cli_rs",
        },
        body={"prompt_cache_key": SESSION, "store": False},
    ),
    sent("session-id", headers={"session_id": SESSION, "conversation_id": SESSION}),
    sent("x-session-id", headers={"X-Session-Id": "ses_abc123"}, program="ses_abc123"),
    sent(
        "x-session-id",
        "ses_def456",
        parent="ses_abc123",
        headers={"X-Session-Id": "ses_def456", "X-Parent-Session-Id": "ses_abc123"},
    ),
    sent(
        "x-session-affinity",
        "ses_def456",
        parent="ses_abc123",
        headers={"x-session-affinity": "ses_def456", "x-parent-session-id": "ses_abc123"},
    ),
    sent(
        "x-opencode-session",
        "ses_abc123",
        headers={"x-opencode-session": "ses_abc123", "x-opencode-request": "msg_1"},
    ),
    sent("amp", "T-77", headers={"X-Amp-Thread-Id": "T-77"}),
    sent("qwen-code", headers={"X-Qwen-Code-Session-Id": SESSION}),
    sent("grok", headers={"x-grok-conv-id": SESSION}),
    sent(
        "helicone",
        thread="/plan/search",
        headers={
            "Helicone-Session-Id": SESSION,
            "Helicone-Session-Path": "/plan/search",
            "Helicone-Session-Name": "planner",
        },
    ),
    sent("bifrost", headers={"x-bf-session-id": SESSION}),
    sent("gproxy", headers={"x-gproxy-session-id": SESSION}),
    sent("litellm", headers={"x-litellm-session-id": SESSION}),
    sent(
        "dynamo",
        "research-42:reader",
        parent="research-42",
        end=True,
        headers={
            "X-Dynamo-Session-ID": "research-42:reader",
            "X-Dynamo-Parent-Session-ID": "research-42",
            "X-Dynamo-Session-Final": "true",
        },
    ),
    sent("smg", "user-7-chat-2", headers={"X-SMG-Routing-Key": "user-7-chat-2"}),
    sent("session_id", "session-7", body={"session_id": "session-7"}),
    sent("anthropic-metadata", body={"metadata": {"user_id": claude_user(SESSION)}}),
    sent("anthropic-metadata", body={"metadata": {"user_id": json.dumps(CLAUDE_METADATA)}}),
    sent("responses", "conv_5", body={"conversation": {"id": "conv_5"}}),
    sent("responses", "conv_5", body={"conversation": "conv_5"}),
    sent("prompt_cache_key", body={"prompt_cache_key": SESSION}),
    sent(
        "baggage",
        "5j66UpCpwteGg4YSxUnt7lPY",
        thread="the planner",
        headers={
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "baggage": "userId=alice,gen_ai.conversation.id=5j66UpCpwteGg4YSxUnt7lPY;p=1,"
            "gen_ai.agent.id=the%20planner",
        },
    ),
]
