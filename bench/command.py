"""What the commands that start servers have in common on the command line and at their end."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from autellix_sgl.errors import AutellixError
from bench.replay import ReplayError
from bench.servers import StartError
from bench.systems import System


def add_systems_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--systems``, ``--variant`` and ``--out``."""
    parser.add_argument("--systems", default="", metavar="NAME[,NAME...]", help="Listed below.")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=SYSTEM:FLAGS",
        help="One more system: another with more server flags. Can be repeated.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="For the results.")


def positive(text: str) -> float:
    """An argument that must be a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number greater than 0, got {text!r}")
    return value


def positives(text: str) -> tuple[float, ...]:
    """A comma-separated argument of such numbers, in ascending order."""
    return tuple(sorted({positive(part) for part in text.split(",")}))


def split_server_flags(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Our words, and those after the first ``--``."""
    words = list(argv)
    if "--" not in words:
        return words, ()
    at = words.index("--")
    return words[:at], tuple(words[at + 1 :])


def in_turn(systems: Sequence[System], seeds: Sequence[int]) -> Iterator[tuple[int, System]]:
    """Every system with every seed; the order of the systems moves on from seed to seed.

    Runs that are compared follow one another, and no system is always the first.
    """
    for number, seed in enumerate(seeds):
        start = number % len(systems)
        for system in (*systems[start:], *systems[:start]):
            yield seed, system


def exit_status(command: Callable[[], None], out: Path) -> int:
    """Run *command*; 1: a run failed, 2: bad input, 130: interrupted. Errors go to stderr."""
    _stop_like_an_interrupt()
    try:
        command()
    except (ReplayError, StartError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except (AutellixError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; what had finished is in {out}\n")
        return 130
    return 0


def _stop_like_an_interrupt() -> None:
    """Make SIGTERM end a command as Ctrl-C does: servers stopped, results kept."""
    # A shell starts its background jobs with SIGINT ignored; asyncio takes over this handler only.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
