"""A server that speaks as much of SGLang's HTTP as the benchmark uses; it generates at once.

python -m tests.bench.fake_server --port P [--seconds-per-token S] [--tokens-short N]
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from aiohttp import web

from bench.servers import READY

CONTEXT_TOKENS = 100_000


def application(*, seconds_per_token: float = 0.0, tokens_short: int = 0) -> web.Application:
    """*tokens_short*: how many tokens fewer than asked an answer has."""

    async def generate(request: web.Request) -> web.Response:
        body = await request.json()
        asked = body["sampling_params"]["max_new_tokens"]
        await asyncio.sleep(asked * seconds_per_token)
        meta: dict[str, Any] = {"cached_tokens": 0, "num_retractions": 0, "queue_time": 0.25}
        if "program" in body:
            meta["program"] = {"preemptions": 1, "recomputed_tokens": 2, "promotions": 0}
        ids = [len(body["input_ids"])] * (asked - tokens_short)
        return web.json_response({"output_ids": ids, "meta_info": meta})

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"max_model_len": CONTEXT_TOKENS}]})

    async def flush(_: web.Request) -> web.Response:
        return web.Response(text="flushed")

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/generate", generate)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/flush_cache", flush)
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds-per-token", type=float, default=0.0)
    parser.add_argument("--tokens-short", type=int, default=0)
    args = parser.parse_args()
    app = application(seconds_per_token=args.seconds_per_token, tokens_short=args.tokens_short)

    async def announce(_: web.Application) -> None:
        asyncio.get_running_loop().call_later(0.1, lambda: print(READY, flush=True))

    app.on_startup.append(announce)
    web.run_app(app, host="127.0.0.1", port=args.port, print=None)


if __name__ == "__main__":
    main()
