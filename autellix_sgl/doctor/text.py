"""The doctor's findings for a reader at a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from autellix_sgl.doctor.installation import Installation
from autellix_sgl.doctor.server import ServerReport, process_name, processes_of, replica_name

TEXT_COLUMNS = 100
SHOWN_WHOLE = 1000
"""Numbers from here on are shown without decimals."""


def installation_text(found: Installation) -> str:
    """*found* for a reader at a terminal."""
    lines = ["Installation", *_aligned((_mark(c.ok), c.name, c.detail) for c in found.checks)]
    for patch in found.patches:
        state = "; ".join(patch.problems) or f"{patch.definitions} definitions as recorded"
        rows = [
            (_mark(not patch.problems), "upstream", state),
            ("", "target", patch.target),
            ("", "kind", patch.kind),
            ("", "reason", patch.reason),
        ]
        lines += ["", f"Patch {patch.name}", *_aligned(rows)]
    lines += ["", "All is well." if found.ok else "Something is wrong: see the lines marked WRONG."]
    return "\n".join(lines)


def server_text(report: ServerReport) -> str:
    """*report* for a reader at a terminal."""
    lines = [f"Server {report.url}, SGLang {report.sglang}"]
    for number, replica in enumerate(report.replicas):
        lines += ["", replica_name(replica, number), *_aligned(_replica_rows(replica))]
        lines += ["  levels", *_aligned(_level_rows(replica), indent=4)]
        lines += ["  processes and the patches in effect in them"]
        lines += _aligned(map(_process_row, processes_of(replica)), indent=4)
    if report.programs is not None:
        counts = ((name.replace("_", " "), _number(n)) for name, n in report.programs.items())
        lines += ["", "Programs", *_aligned(counts)]
    lines += ["", *(f"WRONG  {problem}" for problem in report.problems)]
    if report.ok:
        lines.append("Program scheduling is in effect.")
    return "\n".join(lines)


def _replica_rows(replica: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    cost = replica.get("cost_model") or {}
    beta = replica.get("starvation_ratio")
    yield "policy", str(replica.get("policy", "unknown"))
    yield "starvation ratio", "off" if beta == 0 else _number(beta)
    yield "schedule interval", f"{_number(replica.get('schedule_interval'))} steps"
    yield "service of a step", _cost_text(cost)
    yield "error of the fit", _percent(cost.get("error"), "a fixed table, not fitted")
    yield "error now", _percent(replica.get("cost_error_now"), "no steps since the last change")
    yield "waiting", f"{_number(replica.get('waiting'))} calls"
    yield "running", f"{_number(replica.get('running'))} calls"
    for name, value in (replica.get("counters") or {}).items():
        yield name.replace("_", " "), _number(value)
    for share in replica.get("shares") or []:
        yield f"tenant {share.get('tenant') or 'without a name'}", _share_text(share)


def _share_text(share: Mapping[str, Any]) -> str:
    return (
        f"weight {_number(share.get('weight'))}, served {_number(share.get('service_ms'))} ms, "
        f"in turn {_number(share.get('turn'))}, {_number(share.get('waiting'))} of "
        f"{_number(share.get('calls'))} calls wait"
    )


def _level_rows(replica: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    live = replica.get("calls_per_level") or []
    for level, shape in enumerate(replica.get("levels") or []):
        to, quantum = shape.get("to_ms"), shape.get("quantum_ms")
        yield (
            str(level),
            f"{_number(shape.get('from_ms'))} to {'any' if to is None else _number(to)} ms",
            "no quantum" if quantum is None else f"quantum {_number(quantum)} ms",
            f"{live[level] if level < len(live) else '?'} calls",
        )


def _cost_text(cost: Mapping[str, Any]) -> str:
    parts = {
        "base_ms": "a step",
        "per_prefill_token_ms": "a prefill token",
        "per_decode_call_ms": "a decoding call",
        "per_context_token_ms": "a context token",
    }
    terms = (f"{_number(cost.get(name))} {unit}" for name, unit in parts.items())
    return f"{' + '.join(terms)}, in ms"


def _process_row(process: Mapping[str, Any]) -> tuple[str, str, str]:
    patches = ", ".join(process.get("patches") or ()) or "none"
    changes = ", ".join(process.get("accepted") or ())
    noted = f"{patches}; accepted as changed: {changes}" if changes else patches
    return process_name(process), f"SGLang {process.get('sglang', 'unknown')}", noted


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < SHOWN_WHOLE else f"{value:.0f}"
    return "unknown" if value is None else str(value)


def _percent(value: object, otherwise: str) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, int | float) else otherwise


def _mark(ok: bool | None) -> str:
    return {True: "ok", False: "WRONG", None: "-"}[ok]


def _aligned(rows: Iterable[Sequence[str]], *, indent: int = 2) -> list[str]:
    """Rows of cells as lines, columns padded to their widest cell and the last one wrapped."""
    table = list(rows)
    columns = range(len(table[0]) - 1) if table else range(0)
    widths = [max(len(row[column]) for row in table) for column in columns]
    lines: list[str] = []
    for *cells, last in table:
        padded = (cell.ljust(width + 2) for cell, width in zip(cells, widths, strict=True))
        first = " " * indent + "".join(padded)
        lines += textwrap.wrap(
            last,
            TEXT_COLUMNS,
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines
