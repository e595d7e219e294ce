"""What a tenant gains by naming each call a new program, with ``--program-shares`` and without.

Two tenants each keep as many calls in the system as there are slots. One runs a program in each of
its threads; the other names none, so each of its calls is a new program and goes before all that
have had service. Two servers of the same flags, without and with shares, take the same load in
turn. Reported for each round: the honest tenant's part of the tokens, wanted 0.5, and tokens per
second of both.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from bench.report_file import add_output_argument, write_result
from bench.servers import server_process

HONEST, GAMING = "honest", "gaming"
KEYS = {HONEST: "key-of-the-honest", GAMING: "key-of-the-gaming"}
ADMIN_KEY = "key-of-the-administrator"
PROMPT_TOKENS = 64


def one_thread(
    client: httpx.Client, program: str | None, *, tokens: int, until: float, seed: int
) -> int:
    """Calls one after another until *until* (``time.monotonic()``); the tokens of those in time."""
    rng = random.Random(seed)
    made = 0
    while True:
        body: dict[str, Any] = {
            "input_ids": [rng.randrange(100, 40_000) for _ in range(PROMPT_TOKENS)],
            "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 0.0},
        }
        if program is not None:
            body["program"] = {"id": program}
        client.post("/generate", json=body).raise_for_status()
        if time.monotonic() > until:
            return made
        made += tokens


def one_round(url: str, args: argparse.Namespace, seed: int) -> Mapping[str, int]:
    """Tokens of each tenant in ``args.seconds`` of both at once."""
    until = time.monotonic() + args.seconds
    clients = {
        tenant: httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=600,
            limits=httpx.Limits(max_connections=args.slots),
        )
        for tenant, key in KEYS.items()
    }
    with ThreadPoolExecutor(len(KEYS) * args.slots) as pool, clients[HONEST], clients[GAMING]:
        threads = {
            tenant: [
                pool.submit(
                    one_thread,
                    client,
                    f"{seed}-{number}" if tenant == HONEST else None,
                    tokens=args.tokens,
                    until=until,
                    seed=1000 * seed + number,
                )
                for number in range(args.slots)
            ]
            for tenant, client in clients.items()
        }
        return {tenant: sum(t.result() for t in running) for tenant, running in threads.items()}


def rounds(urls: Mapping[str, str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The servers in turn, the order switched each time; the first round is warm-up, not kept."""
    rows = []
    for seed in tqdm(range(args.rounds + 1), desc="rounds", file=sys.stderr):
        for name in list(urls) if seed % 2 else list(reversed(urls)):
            made = one_round(urls[name], args, seed)
            total = sum(made.values())
            row = {"round": seed, "server": name, "honest_part": made[HONEST] / total}
            if seed:
                rows.append({**row, "tokens_per_s": total / args.seconds})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="Of each server. [%(default)s]")
    parser.add_argument("--seconds", type=float, default=30, help="Of a round. [%(default)s]")
    parser.add_argument("--slots", type=int, default=8, help="And threads a tenant. [%(default)s]")
    parser.add_argument("--tokens", type=int, default=32, help="Of each call. [%(default)s]")
    add_output_argument(parser)
    args, server_flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tenants.json").write_text(json.dumps(KEYS), encoding="utf-8")
        (folder / "shares.json").write_text("{}", encoding="utf-8")
        flags = ["--max-running-requests", str(args.slots), "--admin-api-key", ADMIN_KEY]
        flags += ["--program-tenants", str(folder / "tenants.json"), *server_flags]
        shares = ["--program-shares", str(folder / "shares.json")]
        with (
            server_process(folder, flags) as without,
            server_process(folder, [*flags, *shares]) as with_shares,
        ):
            rows = rounds({"without": without.url, "with shares": with_shares.url}, args)
    medians = [
        {"round": "median", "server": server, **_medians(rows, server)}
        for server in ("without", "with shares")
    ]
    write_result(args.out, {"rows": rows, "medians": medians}, table=[*rows, *medians])
    return 0


def _medians(rows: list[dict[str, Any]], server: str) -> dict[str, float]:
    own = [row for row in rows if row["server"] == server]
    names = ("honest_part", "tokens_per_s")
    return {name: statistics.median(row[name] for row in own) for name in names}


if __name__ == "__main__":
    sys.exit(main())
