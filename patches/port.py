"""What another version of SGLang changes of what we rely on.

    python -m autellix_sgl.patches.port VERSION|WHEEL [--accept NAME[,NAME...]]

Fetches that version's wheel, or opens the file, and shows for every definition relied on whether it
is as recorded, changed (with the difference to what is installed) or gone, who of ours relies on it
and for what. ``--accept`` writes the new fingerprints of the definitions that it names, when
somebody has read what changed in them, and of no other. docs/porting.md has the whole way.

    exit status   0 all as recorded    1 something is to be read    2 no such wheel, or name
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autellix_sgl.errors import AutellixError, UnknownDefinition
from autellix_sgl.patches import fingerprint, inventory
from autellix_sgl.patches.fingerprint import Missing, definition

SAME, CHANGED, NEW, GONE = "same", "changed", "new", "gone"
ALL_RECORDED, TO_READ, UNUSABLE = 0, 1, 2
CONTEXT_LINES = 4


class NoWheel(AutellixError):
    """There is no wheel to compare with; the message says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A definition relied on, as the wheel has it.

    ``state`` NEW: nothing was recorded of it yet. ``before`` and ``after`` are its lines as
    installed and in the wheel, empty where it is not there.
    """

    target: str
    state: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    def difference(self) -> Iterator[str]:
        """As a unified diff, without the lines that name files."""
        lines = difflib.unified_diff(self.before, self.after, lineterm="", n=CONTEXT_LINES)
        return (line for number, line in enumerate(lines) if number > 1)


def compare(root: Path) -> list[Finding]:
    """Every definition relied on, as the packages in the folder *root* have it."""
    expected = fingerprint.recorded()
    findings = []
    for target in inventory.relied_on():
        before, after = _lines(target, None), _lines(target, root)
        if not after:
            state = GONE
        elif target not in expected:
            state = NEW
        else:
            same = fingerprint.fingerprint(target, root) == expected[target]
            state = SAME if same else CHANGED
        findings.append(Finding(target, state, before, after))
    return findings


def _lines(target: str, root: Path | None) -> tuple[str, ...]:
    try:
        return tuple(definition(target, root).splitlines())
    except Missing:
        return ()


def accept(names: Iterable[str], root: Path) -> list[str]:
    """Record the fingerprints that the named definitions have in *root*; returns the definitions.

    What is no longer relied on is forgotten. Raises UnknownDefinition for a name that is not of one
    definition relied on, or of one that is gone; then nothing is written.
    """
    targets = inventory.named(names)
    taken = {}
    for target in targets:
        try:
            taken[target] = fingerprint.fingerprint(target, root)
        except Missing as error:
            raise UnknownDefinition(f"{error}, so it cannot be accepted") from error
    relied = inventory.relied_on()
    kept = {target: old for target, old in fingerprint.recorded().items() if target in relied}
    text = json.dumps(dict(sorted((kept | taken).items())), indent=1) + "\n"
    fingerprint.RECORDED.write_text(text, encoding="utf-8")
    return targets


# -- the wheel ----------------------------------------------------------------------------------


def obtain(what: str, folder: Path) -> Path:
    """The wheel at the path *what*, or of that version, fetched into *folder*; raises NoWheel."""
    if what.endswith(".whl"):
        if not Path(what).is_file():
            raise NoWheel(f"{what}: no such file")
        return Path(what)
    if not re.fullmatch(r"[0-9][0-9A-Za-z.+!]*", what):
        raise NoWheel(f"{what!r} is neither a version nor the path of a wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    download = [*pip, "download", "--no-deps", "--dest", str(folder), f"sglang=={what}"]
    if subprocess.run(download, check=False).returncode != 0:
        raise NoWheel(f"pip could not fetch sglang {what}")
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        raise NoWheel(f"SGLang {what} comes without a wheel for this Python")
    return wheels[0]


def unpack(wheel: Path, folder: Path) -> str:
    """Lay the wheel's Python sources out in *folder*; returns its version. Raises NoWheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.namelist()
            archive.extractall(folder, [name for name in members if name.endswith(".py")])
            described = [name for name in members if name.endswith(".dist-info/METADATA")]
            metadata = archive.read(described[0]).decode() if described else ""
    except zipfile.BadZipFile as error:
        raise NoWheel(f"{wheel} is no wheel") from error
    version = re.search(r"^Version: *(\S+)", metadata, re.MULTILINE)
    if version is None or not (folder / "sglang").is_dir():
        raise NoWheel(f"{wheel} is no wheel of SGLang")
    return version[1]


# -- text ---------------------------------------------------------------------------------------


def report(findings: Sequence[Finding], version: str) -> str:
    """What is to be read, and a count of the rest."""
    lines = []
    for finding in findings:
        if finding.state != SAME:
            lines += [*_heading(finding), *_body(finding), ""]
    counts = ", ".join(
        f"{sum(finding.state == state for finding in findings)} {state}"
        for state in (SAME, CHANGED, NEW, GONE)
    )
    of = f"recorded of {fingerprint.SGLANG_VERSION}"
    lines.append(f"SGLang {version} against what is {of}: {counts}.")
    unread = [f.target.partition(":")[2] for f in findings if f.state in (CHANGED, NEW)]
    if unread:
        lines.append(f"When you have read them: --accept {','.join(unread)}")
    return "\n".join(lines)


def _heading(finding: Finding) -> Iterator[str]:
    yield f"=== {finding.state}: {finding.target}"
    for reliance in inventory.reliances():
        if reliance.target == finding.target:
            yield f"    {reliance.by}: {reliance.purpose}"


def _body(finding: Finding) -> Iterator[str]:
    if finding.state == GONE:
        return
    if finding.before == finding.after:
        yield "    (as installed, which is not as recorded)"
    elif not finding.before:
        yield "    (not in what is installed)"
        yield from finding.after
    else:
        yield from finding.difference()


# -- the command --------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m autellix_sgl.patches.port",
        description="What a version of SGLang changes of the definitions relied on.",
    )
    parser.add_argument("version", metavar="VERSION|WHEEL", help="for example 0.5.24, or a file")
    parser.add_argument(
        "--accept",
        metavar="NAME[,NAME...]",
        default="",
        help="record the fingerprints of these definitions: you have read what changed",
    )
    args = parser.parse_args(argv)
    names = [name.strip() for name in args.accept.split(",") if name.strip()]
    with tempfile.TemporaryDirectory(prefix="autellix-port-") as scratch:
        sources = Path(scratch) / "sources"
        try:
            version = unpack(obtain(args.version, Path(scratch)), sources)
            for target in accept(names, sources) if names else ():
                print(f"accepted: {target}")
        except (NoWheel, UnknownDefinition) as error:
            sys.stderr.write(f"error: {error}\n")
            return UNUSABLE
        findings = compare(sources)
    print(report(findings, version))
    return ALL_RECORDED if all(finding.state == SAME for finding in findings) else TO_READ


if __name__ == "__main__":
    sys.exit(main())
