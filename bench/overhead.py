"""What program scheduling costs when there is nothing to schedule.

Two servers of the same flags, SGLang's own scheduler (``--program-policy none``) and ours, answer
the same load in turn, with never more calls than slots: no call ever waits. Reported: tokens per
second of each round, and the ratio ours/stock pair by pair.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from bench.report_file import add_output_argument, write_result
from bench.servers import server_process

LIMIT = 0.98


def one_call(url: str, prompt: list[int], tokens: int, program: str) -> None:
    body = {
        "input_ids": prompt,
        "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 0.0},
        "session_id": program,
    }
    response = httpx.post(f"{url}/generate", json=body, timeout=600)
    response.raise_for_status()
    returned = response.json()["meta_info"]["completion_tokens"]
    if returned != tokens:
        raise RuntimeError(f"asked for {tokens} tokens, got {returned}")


def one_round(url: str, *, slots: int, calls: int, tokens: int, seed: int) -> float:
    """Each of *slots* clients makes *calls* calls one after another; tokens per second of all."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(100, 40_000) for _ in range(64)] for _ in range(slots * calls)]

    def client(number: int) -> None:
        for call in range(calls):
            one_call(url, prompts[number * calls + call], tokens, f"round-{seed}-{number}")

    started = time.perf_counter()
    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(client, range(slots)))
    return slots * calls * tokens / (time.perf_counter() - started)


def paired_rounds(urls: dict[str, str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rounds in turn, the order switched each time; the first pair is warm-up and not kept."""
    rows = []
    for pair in tqdm(range(args.rounds + 1), desc="pairs", file=sys.stderr):
        order = list(urls) if pair % 2 else list(reversed(urls))
        speed = {
            name: one_round(
                urls[name], slots=args.slots, calls=args.calls, tokens=args.tokens, seed=pair
            )
            for name in order
        }
        if pair:
            rows.append({"pair": pair, **speed, "ratio": speed["ours"] / speed["stock"]})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="Pairs that count.")
    parser.add_argument("--slots", type=int, default=8, help="Clients and slots.")
    parser.add_argument("--calls", type=int, default=3, help="Calls of each client in a round.")
    parser.add_argument("--tokens", type=int, default=48, help="Tokens of each call.")
    add_output_argument(parser)
    args, server_flags = parser.parse_known_args()
    flags = ["--max-running-requests", str(args.slots), *server_flags]
    with (
        tempfile.TemporaryDirectory() as folder,
        server_process(Path(folder), [*flags, "--program-policy", "none"]) as stock,
        server_process(Path(folder), flags) as ours,
    ):
        rows = paired_rounds({"stock": stock.url, "ours": ours.url}, args)
    ratio = statistics.median(row["ratio"] for row in rows)
    medians = {name: statistics.median(row[name] for row in rows) for name in ("stock", "ours")}
    summary = {"pair": "median", **medians, "ratio": ratio}
    write_result(args.out, {"rows": rows, "median_ratio": ratio}, table=[*rows, summary])
    print(f"ours/stock: {ratio:.3f} (wanted: at least {LIMIT})")
    return 0 if ratio >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
