"""What the tools share that write a page of docs/ from what is in the code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def command(page: str, text: Callable[[], str], about: str | None) -> int:
    """Write *text* to ``docs/<page>``, or say whether it is there; returns the exit status."""
    tool = f"python tools/{Path(sys.argv[0]).name}"
    parser = argparse.ArgumentParser(prog=tool, description=about)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help=f"write docs/{page}")
    action.add_argument("--check", action="store_true", help=f"exit 1 if docs/{page} is stale")
    args = parser.parse_args()
    document = DOCS / page
    if args.write:
        document.write_text(text(), encoding="utf-8")
        return 0
    if document.is_file() and document.read_text(encoding="utf-8") == text():
        return 0
    sys.stderr.write(f"docs/{page} is stale: run `{tool} --write`\n")
    return 1
