"""What an engine has to offer the benchmark, and SGLang, ours and stock.

An engine generates exactly what it is asked for (``ignore_eos``), greedily, from prompts of token
ids, and answers with the ids it generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from bench.records import Answer
from bench.replay import Call, ReplayError
from bench.servers import RunningServer, announced, command

FLUSH_TIMEOUT_S = 30

Request = tuple[str, dict[str, Any]]
"""A path and the JSON body to POST there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSetting:
    """What all servers of a comparison have in common.

    ``model``: a folder or a name, None for the default model. ``slots``: calls in a batch.
    ``pool_tokens``: size of the KV cache. ``flags``: more flags for the servers based on SGLang.
    ``vllm_python``: the Python of vLLM's own environment. ``thunderagent``: a checkout of it.
    """

    model: str | None = None
    slots: int = 8
    pool_tokens: int = 32_768
    flags: tuple[str, ...] = ()
    vllm_python: Path = Path(".venv-vllm/bin/python")
    thunderagent: Path = Path(".peers/ThunderAgent")


class Engine(Protocol):
    """One kind of server."""

    def command(self, setting: ServerSetting, flags: Sequence[str], port: int) -> list[str]:
        """Its command line; *flags* are those of the system, which come last.

        Raises FileNotFoundError, with the way to get it, for an engine that is not installed.
        """
        ...

    def environment(self, setting: ServerSetting) -> dict[str, str]: ...

    def versions(self, setting: ServerSetting) -> dict[str, str]:
        """Of what it consists of and `bench.report_file.machine` does not know."""
        ...

    def ready(self, server: RunningServer) -> bool: ...

    def request(self, call: Call) -> Request:
        """What asks for *call*."""
        ...

    def answer(self, body: Mapping[str, Any]) -> Answer: ...

    def release(self, program: str) -> Request | None:
        """What says that a program is over, to a server that no call can tell."""
        ...

    async def flush(self, http: aiohttp.ClientSession) -> None:
        """Empty the prefix cache; raises ReplayError if the server does not."""
        ...


class SGLang:
    """SGLang under ``autellix_sgl.launch_server``, whose policy ``none`` is SGLang's own scheduler.

    So all systems on SGLang have the same flags, and without a GPU the same attention backend.
    ``--enable-metrics`` makes the scheduler say how long each call queued, by a clock and in the
    same words for all of them.
    """

    def __init__(self, *, programs: bool) -> None:
        self._programs = programs

    def command(self, setting: ServerSetting, flags: Sequence[str], port: int) -> list[str]:
        return command("--port", str(port), *sglang_flags(setting), *flags)

    def environment(self, setting: ServerSetting) -> dict[str, str]:
        return {}

    def versions(self, setting: ServerSetting) -> dict[str, str]:
        return {}

    def ready(self, server: RunningServer) -> bool:
        return announced(server)

    def request(self, call: Call) -> Request:
        body: dict[str, Any] = {
            "input_ids": call.prompt,
            "sampling_params": {
                "max_new_tokens": call.output_tokens,
                "ignore_eos": True,
                "temperature": 0.0,
            },
        }
        if self._programs:
            thread = {"thread": call.thread} if call.thread else {}
            body["program"] = {"id": call.program, **thread, "end": call.last}
        return "/generate", body

    def answer(self, body: Mapping[str, Any]) -> Answer:
        return sglang_answer(body["output_ids"], body["meta_info"])

    def release(self, program: str) -> None:
        return None

    async def flush(self, http: aiohttp.ClientSession) -> None:
        await post_empty(http, f"/flush_cache?timeout={FLUSH_TIMEOUT_S}")


def sglang_flags(setting: ServerSetting) -> list[str]:
    """The flags that every server based on SGLang gets, but its port and its policy."""
    return [
        *(["--model-path", setting.model] if setting.model else []),
        *("--max-running-requests", str(setting.slots)),
        *("--max-total-tokens", str(setting.pool_tokens)),
        "--enable-metrics",
        *setting.flags,
    ]


def stock_flags(policy: str) -> tuple[str, ...]:
    """The flags for SGLang's own scheduler under one of its own policies."""
    return ("--program-policy", "none", "--schedule-policy", policy)


def sglang_answer(output_ids: list[int], meta: Mapping[str, Any]) -> Answer:
    """An answer from SGLang's ``meta_info``, with what program scheduling adds if it is there."""
    program = meta.get("program", {})
    return Answer(
        output_ids=output_ids,
        cached_tokens=meta["cached_tokens"],
        wait_s=meta.get("queue_time"),
        preemptions=program.get("preemptions", meta["num_retractions"]),
        recomputed_tokens=program.get("recomputed_tokens"),
        promotions=program.get("promotions"),
    )


async def post_empty(http: aiohttp.ClientSession, url: str) -> None:
    """POST to where a server empties its cache; raises ReplayError unless it says that it has."""
    async with http.post(url) as response:
        if response.status != 200:
            said = (await response.text())[:500]
            raise ReplayError(f"the server's cache could not be emptied: {said}")
