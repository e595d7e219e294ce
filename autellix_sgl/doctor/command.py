"""The command line of ``python -m autellix_sgl.doctor``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from autellix_sgl.doctor.installation import Installation, examine_installation
from autellix_sgl.doctor.server import ServerReport, Unreachable, examine_server
from autellix_sgl.doctor.text import installation_text, server_text

OK, WRONG, UNREACHABLE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m autellix_sgl.doctor",
        description="Is program scheduling in effect? Examines this installation, or with --url a "
        "running server. Exit status: 0 yes, 1 something is wrong, 2 the server gave no answer.",
    )
    parser.add_argument("--url", metavar="URL", help="for example http://127.0.0.1:30000")
    parser.add_argument("--api-key", metavar="KEY", help="what the server was given as --api-key")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    args = parser.parse_args(argv)
    try:
        found = examine_server(args.url, args.api_key) if args.url else examine_installation()
    except Unreachable as error:
        sys.stderr.write(f"error: {error}\n")
        return UNREACHABLE
    sys.stdout.write((_json_text(found) if args.json else _text(found)) + "\n")
    return OK if found.ok else WRONG


def _text(found: Installation | ServerReport) -> str:
    return installation_text(found) if isinstance(found, Installation) else server_text(found)


def _json_text(found: Installation | ServerReport) -> str:
    return json.dumps({"ok": found.ok, **asdict(found)}, indent=1)
