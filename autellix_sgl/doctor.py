"""``python -m autellix_sgl.doctor [--url URL]``: is program scheduling in effect?

Without ``--url`` it examines this installation: versions, every patch, the default model. With it,
it asks a running server, replica by replica and process by process, what schedules there.

    exit status   0 all is well    1 something is wrong, and is named    2 no answer to judge

It imports neither torch nor sglang, so it answers in well under a second, also where one of them
is broken.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.metadata
import json
import os
import shutil
import sys
import textwrap
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Any

from autellix_sgl import default_model
from autellix_sgl.errors import ActivationError
from autellix_sgl.patches.acceptance import VARIABLE, accepted
from autellix_sgl.patches.fingerprint import (
    SGLANG_VERSION,
    changed,
    installed_version,
    mismatches,
)
from autellix_sgl.patches.inventory import PATCHES
from autellix_sgl.patches.record import Patch, Reliance
from autellix_sgl.patches.seams import SEAMS

OK, WRONG, UNREACHABLE = 0, 1, 2

MINIMUM_PYTHON = (3, 11)
TIMEOUT_S = 30.0
TEXT_COLUMNS = 100
SHOWN_WHOLE = 1000
"""Numbers from here on are shown without decimals."""

# Every scheduler process of ours has this one; the others depend on the machine.
ESSENTIAL_PATCH = "scheduler_class"


class Unreachable(Exception):
    """There is nothing to judge: no server, no permission, or an answer that is not JSON."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding about the installation. ``ok`` None: worth knowing, neither right nor wrong."""

    name: str
    ok: bool | None
    detail: str


# -- this installation --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PatchCheck:
    """A patch and whether the upstream source it was written against is what is installed."""

    name: str
    target: str
    kind: str
    reason: str
    definitions: int
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Installation:
    """What was found on this machine."""

    checks: list[Check]
    patches: list[PatchCheck]

    @property
    def ok(self) -> bool:
        return all(check.ok is not False for check in self.checks) and not any(
            patch.problems for patch in self.patches
        )


def examine_installation() -> Installation:
    """Look at this machine."""
    checks = [_check_python(), _check_sglang(), _check_torch(), _check_cpu_attention()]
    checks += [_check_default_model(), _check_seams(), *_check_accepted()]
    return Installation(checks, [_check_patch(patch) for patch in PATCHES])


def _check_python() -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info >= MINIMUM_PYTHON:
        return Check("Python", True, found)
    needed = ".".join(str(part) for part in MINIMUM_PYTHON)
    return Check("Python", False, f"{found}; {needed} or later is needed")


def _check_sglang() -> Check:
    found = installed_version()
    if found == SGLANG_VERSION:
        return Check("SGLang", True, found)
    return Check("SGLang", False, f"{SGLANG_VERSION} is needed, found {found or 'none'}")


def _check_torch() -> Check:
    from autellix_sgl.runtime.launch.platform import uses_cpu_engine

    found = _version_of("torch")
    if found is None:
        return Check("torch", False, "is not installed")
    return Check("torch", True, f"{found}, to run on the {'CPU' if uses_cpu_engine() else 'GPU'}")


def _check_cpu_attention() -> Check:
    """Which attention the launcher takes on this machine if no flag says otherwise."""
    from autellix_sgl.runtime.cpu import BACKEND_NAME
    from autellix_sgl.server_defaults import flag_value, server_defaults

    backend = flag_value(server_defaults(["--model-path", "any"]), "--attention-backend")
    if backend is None:
        return Check("CPU attention", None, "not needed beside a GPU")
    if backend != BACKEND_NAME:
        return Check("CPU attention", None, f"SGLang's {backend}")
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return Check("CPU attention", None, f"{backend} in torch, slower: no C++ compiler here")
    return Check("CPU attention", True, f"{backend}, compiled with {compiler} at first use")


def _check_default_model() -> Check:
    folder = default_model.folder()
    if default_model.is_complete(folder):
        return Check("default model", True, f"{default_model.NAME}, in {folder}")
    if _version_of(default_model.DISTRIBUTION) is not None:
        return Check("default model", None, "is prepared at the first start without --model-path")
    missing = f"the package {default_model.DISTRIBUTION} is not installed"
    return Check("default model", None, f"{missing}; a server needs --model-path")


def _check_seams() -> Check:
    """The definitions that are subclassed or called without any patch."""
    problems = _mismatches(SEAMS)
    if problems:
        return Check("other seams", False, "; ".join(problems))
    return Check("other seams", True, f"{len(SEAMS)} definitions as recorded")


def _check_accepted() -> list[Check]:
    """The definitions that the environment says may have changed, if it says so."""
    try:
        targets = accepted()
    except ActivationError as error:
        return [Check("accepted changes", False, str(error))]
    if not targets or installed_version() is None:
        return []
    differing = changed(targets)
    details = [f"{t} ({'changed' if t in differing else 'as recorded'})" for t in targets]
    return [Check("accepted changes", None, f"by {VARIABLE}: {', '.join(details)}")]


def _check_patch(patch: Patch) -> PatchCheck:
    relied_on = patch.relied_on
    problems = _mismatches(relied_on)
    return PatchCheck(patch.name, patch.target, patch.kind, patch.reason, len(relied_on), problems)


def _mismatches(reliances: Sequence[Reliance]) -> list[str]:
    if installed_version() is None:
        return ["SGLang is not installed"]  # once, not once for each definition
    try:
        may_differ = accepted()
    except ActivationError:
        may_differ = []  # said by a check of its own
    return mismatches([reliance.target for reliance in reliances], may_differ)


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# -- a running server ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What a server said. ``replicas`` holds each replica's program state, without its samples."""

    url: str
    sglang: str
    replicas: list[dict[str, Any]]
    programs: dict[str, Any] | None
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def examine_server(url: str, api_key: str | None = None) -> ServerReport:
    """Ask the server at *url*; raises Unreachable."""
    url = _normalised(url)
    info = _get(url, "/server_info", api_key)
    states = info.get("internal_states")
    if not isinstance(states, list):
        raise Unreachable(f"{url} answers, but not as an SGLang server: no internal_states")
    programs = [state.get("program") for state in states if isinstance(state, dict)]
    replicas = [_without_samples(program) for program in programs if isinstance(program, dict)]
    problems = list(_problems_of(replicas, num_states=len(states), tp_size=info.get("tp_size")))
    problems += _problems_of_count(len(states), dp_size=info.get("dp_size"))
    return ServerReport(
        url=url,
        sglang=str(info.get("version", "unknown")),
        replicas=replicas,
        programs=_get(url, "/v1/programs?limit=1", api_key).get("statistics") if replicas else None,
        problems=problems,
    )


def _without_samples(program: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in program.items() if name != "samples"}


def _problems_of(
    replicas: Sequence[Mapping[str, Any]], *, num_states: int, tp_size: object
) -> Iterator[str]:
    if not replicas:
        yield "program scheduling is not in effect: this is SGLang's own scheduler"
        return
    if len(replicas) < num_states:
        yield f"program scheduling is in effect in {len(replicas)} of {num_states} replicas only"
    for number, replica in enumerate(replicas):
        for problem in _problems_of_ranks(_processes(replica), tp_size):
            yield f"{_replica_name(replica, number)}: {problem}"
        if len(set(replica.get("digests") or ())) > 1:
            yield f"{_replica_name(replica, number)}: its ranks have decided differently"


def _problems_of_count(num_states: int, *, dp_size: object) -> Iterator[str]:
    if isinstance(dp_size, int) and num_states < dp_size:
        yield f"{num_states} of {dp_size} replicas are left; start the server again to have all"


def _problems_of_ranks(processes: Sequence[Mapping[str, Any]], tp_size: object) -> Iterator[str]:
    if isinstance(tp_size, int) and len(processes) != tp_size:
        yield f"{len(processes)} of {tp_size} ranks report themselves"
    for process in processes:
        if ESSENTIAL_PATCH not in process.get("patches", ()):
            yield f"patch {ESSENTIAL_PATCH} is not in effect in {_who(process)}"
    if (
        len({(p.get("sglang"), *p.get("patches", ()), *p.get("accepted", ())) for p in processes})
        > 1
    ):
        yield "its ranks differ in SGLang's version, in patches or in changes accepted"


def _processes(replica: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = replica.get("processes")
    return [p for p in listed if isinstance(p, dict)] if isinstance(listed, list) else []


def _replica_name(replica: Mapping[str, Any], position: int) -> str:
    """By its own number if it says one: replicas answer in any order."""
    return f"Replica {replica.get('replica', position)}"


def _who(process: Mapping[str, Any]) -> str:
    return f"{process.get('role', 'process')} {process.get('pid', '?')}"


def _normalised(url: str) -> str:
    """*url* with a scheme and without a slash at its end; raises Unreachable if it is none."""
    url = url if "://" in url else f"http://{url}"
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Unreachable(f"{url} is not an address of an HTTP server")
    return url.rstrip("/")


def _get(url: str, path: str, api_key: str | None) -> dict[str, Any]:
    """The JSON object at *path*; raises Unreachable that says in one line why there is none."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    request = urllib.request.Request(url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer = json.loads(response.read())
    except urllib.error.HTTPError as error:
        raise Unreachable(_explain_status(url, path, error.code)) from error
    except urllib.error.URLError as error:
        raise Unreachable(f"no answer from {url}: {_explain(error.reason)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no answer from {url}: {_explain(error)}") from error
    except ValueError as error:
        raise Unreachable(f"{url}{path} answers no JSON: is it an SGLang server?") from error
    if not isinstance(answer, dict):
        raise Unreachable(f"{url}{path} answers something else than a JSON object")
    return answer


def _explain_status(url: str, path: str, status: int) -> str:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"{url} wants another API key (HTTP {status}): pass --api-key"
    return f"{url}{path} answers HTTP {status}: is it an SGLang server?"


def _explain(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"nothing within {TIMEOUT_S:g} s"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__


# -- text ---------------------------------------------------------------------------------------


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
        lines += ["", _replica_name(replica, number), *_aligned(_replica_rows(replica))]
        lines += ["  levels", *_aligned(_level_rows(replica), indent=4)]
        lines += ["  processes and the patches in effect in them"]
        lines += _aligned(map(_process_row, _processes(replica)), indent=4)
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
    return _who(process), f"SGLang {process.get('sglang', 'unknown')}", noted


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


# -- the command --------------------------------------------------------------------------------


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


if __name__ == "__main__":
    sys.exit(main())
