"""The engines of other projects; ``make bench-peers`` fetches them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from autellix_sgl import default_model
from bench.engines import (
    FLUSH_TIMEOUT_S,
    Request,
    ServerSetting,
    post_empty,
    sglang_answer,
    sglang_flags,
    stock_flags,
)
from bench.records import Answer
from bench.replay import Call
from bench.servers import RunningServer

# vLLM's CPU attention is at its best with blocks of a multiple of 32 tokens, and a prefix is only
# found in whole blocks: the smallest is the fairest with short contexts.
VLLM_BLOCK_TOKENS = 32


class Vllm:
    """vLLM's OpenAI server for CPUs, in an environment of its own.

    It tells the cached tokens of a call, but neither its wait nor its preemptions.
    """

    def command(self, setting: ServerSetting, flags: Sequence[str], port: int) -> list[str]:
        if not setting.vllm_python.exists():
            raise FileNotFoundError(
                f"--vllm-python {setting.vllm_python}: not there; `make bench-peers` installs it"
            )
        model = setting.model or str(default_model.ensure())
        blocks = setting.pool_tokens // VLLM_BLOCK_TOKENS
        return [
            # Not resolved: a venv's python is a link, and its place is what makes it the venv's.
            str(setting.vllm_python.absolute()),
            *("-m", "vllm.entrypoints.openai.api_server", "--model", model),
            *("--served-model-name", "model", "--host", "127.0.0.1", "--port", str(port)),
            *("--max-num-seqs", str(setting.slots)),
            *("--block-size", str(VLLM_BLOCK_TOKENS), "--num-gpu-blocks-override", str(blocks)),
            "--enable-prompt-tokens-details",
            *flags,
        ]

    def environment(self, setting: ServerSetting) -> dict[str, str]:
        found = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB at the start; the blocks' number then overrides it
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # it would leave one core idle
            "VLLM_SERVER_DEV_MODE": "1",  # offers /reset_prefix_cache
        }
        openmp = setting.vllm_python.absolute().parent.parent / "lib" / "libiomp5.so"
        return {**found, "LD_PRELOAD": str(openmp)} if openmp.exists() else found

    def versions(self, setting: ServerSetting) -> dict[str, str]:
        script = "from importlib.metadata import version; print(version('vllm-cpu'))"
        return {"vllm-cpu": _output(str(setting.vllm_python.absolute()), "-c", script)}

    def ready(self, server: RunningServer) -> bool:
        return "Application startup complete" in server.log.read_text(errors="replace")

    def request(self, call: Call) -> Request:
        return "/v1/completions", {
            "model": "model",
            "prompt": call.prompt,
            "max_tokens": call.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "return_token_ids": True,
        }

    def answer(self, body: Mapping[str, Any]) -> Answer:
        details = body["usage"].get("prompt_tokens_details") or {}
        return Answer(
            output_ids=body["choices"][0]["token_ids"], cached_tokens=details.get("cached_tokens")
        )

    def release(self, program: str) -> None:
        return None

    async def flush(self, http: aiohttp.ClientSession) -> None:
        await post_empty(http, "/reset_prefix_cache")


class ThunderAgent:
    """ThunderAgent's proxy, which pauses whole programs, in front of a stock SGLang server.

    It takes chat completions only, and passes on what it does not know: the prompt goes as
    ``input_ids``, which SGLang takes in place of the messages' text. It counts a program's tokens
    by the length of the body, ids included, and corrects that by the usage that comes back.
    """

    def command(self, setting: ServerSetting, flags: Sequence[str], port: int) -> list[str]:
        if not setting.thunderagent.is_dir():
            raise FileNotFoundError(
                f"--thunderagent {setting.thunderagent}: not there; `make bench-peers` fetches it"
            )
        launcher = [sys.executable, "-m", "bench.thunderagent", "--port", str(port)]
        return [*launcher, *flags, "--", *sglang_flags(setting), *stock_flags("fcfs")]

    def environment(self, setting: ServerSetting) -> dict[str, str]:
        return {"PYTHONPATH": str(setting.thunderagent.absolute())}

    def versions(self, setting: ServerSetting) -> dict[str, str]:
        where = str(setting.thunderagent)
        return {"thunderagent": _output("git", "-C", where, "rev-parse", "--short", "HEAD")}

    def ready(self, server: RunningServer) -> bool:
        return f"Uvicorn running on {server.url}" in server.log.read_text(errors="replace")

    def request(self, call: Call) -> Request:
        return "/v1/chat/completions", {
            "model": "default",
            "messages": [{"role": "user", "content": "."}],
            "input_ids": call.prompt,
            "max_tokens": call.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "return_meta_info": True,
            "return_output_ids_in_sglext": True,
            "program_id": call.program,
        }

    def answer(self, body: Mapping[str, Any]) -> Answer:
        return sglang_answer(body["sglext"]["output_ids"][0], body["choices"][0]["meta_info"])

    def release(self, program: str) -> Request:
        return "/programs/release", {"program_id": program}

    async def flush(self, http: aiohttp.ClientSession) -> None:
        async with http.get("/health") as response:
            (backend,) = orjson.loads(await response.read())["backends"]
        # The session's own base is the proxy, which has no such route.
        async with aiohttp.ClientSession(backend) as server:
            await post_empty(server, f"/flush_cache?timeout={FLUSH_TIMEOUT_S}")


def _output(*words: str) -> str:
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
