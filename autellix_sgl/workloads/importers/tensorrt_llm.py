"""TensorRT-LLM scaffolding traces: one JSON file a program, with real parallel branches.

``{"trace_id", "events": [...]}``; an event is a ``message`` (an assistant's is an LLM call), a
``tool_call`` with ``duration_ms``, ``parallel_start`` or ``parallel_end``; ``drop_kv_cache`` is a
hint to the server and is passed over. ``branch_path`` says on which branch an event is: a branch
begins after the last call of the one it hangs on, and that one goes on after all of its children.
A ``parallel_start`` with ``children`` holds one event for each of its branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autellix_sgl.workloads.builder import ProgramBuilder
from autellix_sgl.workloads.fields import Record, read_document
from autellix_sgl.workloads.model import TOOL, Interrupt, ProgramTrace

Path_ = tuple[int, ...]


@dataclass(slots=True)
class _Conversation:
    """Messages of one chat: what was said since its last call, and what that call repeats."""

    system: str = ""
    system_tokens: int = 0
    said_tokens: int = 0
    last: int = -1
    reusable_tokens: int = 0


@dataclass(slots=True)
class _Branch:
    """Where a branch stands: the calls its next one waits for, and tool time since."""

    parents: tuple[int, ...] = ()
    tool_ms: float = 0.0
    conversations: dict[int, _Conversation] = field(default_factory=dict)


def tensorrt_llm(path: Path) -> Iterator[ProgramTrace]:
    """The one program of the file, or none if it makes no call."""
    document = read_document(path)
    reader = _Reader(document.text("trace_id", path.stem))
    for event in document.records("events"):
        reader.read(event, _path(event))
    if len(reader.program):
        yield reader.program.build()


class _Reader:
    def __init__(self, trace_id: str) -> None:
        self.program = ProgramBuilder(trace_id, "tensorrt-llm")
        self._id = trace_id
        self._branches: dict[Path_, _Branch] = {(): _Branch()}

    def read(self, event: Record, path: Path_) -> None:
        kind = event.text("event_type")
        branch = self._branch(path)
        if kind == "message":
            self._message(event, path, branch)
        elif kind == "tool_call":
            branch.tool_ms += event.number("duration_ms", default=0.0)
        elif kind == "parallel_start":
            if "children" in event:
                for number, child in enumerate(event.records("children")):
                    self.read(child, (*path, number))
                self._join(path)
        elif kind == "parallel_end":
            self._join(path)
        elif kind != "drop_kv_cache":
            event.fail("event_type", f"unknown event {kind!r}")

    def _branch(self, path: Path_) -> _Branch:
        """The branch of that path; a new one begins where the one it hangs on stands."""
        if path not in self._branches:
            above = self._branch(path[:-1])
            self._branches[path] = _Branch(above.parents, above.tool_ms)
        return self._branches[path]

    def _join(self, path: Path_) -> None:
        """The branches that hang on *path* are over; it goes on after all of them."""
        branch = self._branches[path]
        below = [p for p in self._branches if len(p) > len(path) and p[: len(path)] == path]
        ends = {call for p in below for call in self._branches[p].parents}
        if ends:
            branch.parents = tuple(sorted(ends))
            branch.tool_ms = max(self._branches[p].tool_ms for p in below)
        for p in below:
            del self._branches[p]

    def _message(self, event: Record, path: Path_, branch: _Branch) -> None:
        chat = self._conversation(event.whole("conversation_id", default=0), path)
        role = event.text("role")
        if role == "assistant":
            self._call(event, path, branch, chat)
        elif role == "system" and chat.last < 0 and not chat.said_tokens:
            chat.system_tokens = event.whole("tokens", default=0)
            chat.system = event.text("system_prompt_id", f"{self._id}/{event.path}")
        elif role in ("system", "user", "tool"):
            chat.said_tokens += event.whole("tokens", default=0)
        else:
            event.fail("role", f"unknown role {role!r}")

    def _conversation(self, number: int, path: Path_) -> _Conversation:
        """The chat as this branch sees it: its own, or a copy of its nearest ancestor's."""
        own = self._branches[path].conversations
        if number not in own:
            above = (self._branches.get(path[:n]) for n in range(len(path) - 1, -1, -1))
            seen = next((b.conversations[number] for b in above if b and number in b.conversations),
                        _Conversation())  # fmt: skip
            own[number] = _Conversation(
                seen.system, seen.system_tokens, seen.said_tokens, seen.last, seen.reusable_tokens
            )
        return own[number]

    def _call(self, event: Record, path: Path_, branch: _Branch, chat: _Conversation) -> None:
        output = max(1, event.whole("completion_tokens"))
        repeats = chat.reusable_tokens if chat.last >= 0 else chat.system_tokens
        prompt = event.whole(
            "prompt_tokens", at_least=1, default=max(1, repeats + chat.said_tokens)
        )
        shared = min(repeats, prompt)
        tool = Interrupt(TOOL, branch.tool_ms) if branch.tool_ms else None
        thread = "/".join(map(str, path))
        if chat.last < 0:
            call = self.program.fresh(
                prompt - shared, output, system=chat.system, system_tokens=shared,
                parents=branch.parents, thread=thread, interrupt=tool,
            )  # fmt: skip
        else:
            call = self.program.extend(
                chat.last, prompt - shared, output, shared_tokens=shared,
                parents=branch.parents, thread=thread, interrupt=tool,
            )  # fmt: skip
        # Reasoning comes first in the output and is not sent again, so nothing after it matches.
        reasoned = event.whole("reasoning_tokens", default=0)
        chat.last, chat.said_tokens = call, 0
        chat.reusable_tokens = prompt + (0 if reasoned else output)
        branch.parents, branch.tool_ms = (call,), 0.0


def _path(event: Record) -> Path_:
    return tuple(event.wholes("branch_path")) if "branch_path" in event else ()
