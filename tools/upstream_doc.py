"""Write ``docs/upstream.md`` from the patches' own records, or check that it is what they say.

    python tools/upstream_doc.py --write
    python tools/upstream_doc.py --check      exit 1 if the file is stale

Nothing of sglang is imported: the records name definitions, they do not hold them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from written_doc import command, table

from autellix_sgl.patches.fingerprint import SGLANG_VERSION
from autellix_sgl.patches.inventory import PATCHES, relied_on
from autellix_sgl.patches.record import Patch, Reliance
from autellix_sgl.patches.seams import SEAMS

INTRODUCTION = """\
# What we rely on in SGLang

*Written by `tools/upstream_doc.py` from the records in `patches/`; do not edit it by hand.*

This package runs on SGLang {version}, and on no other version: what it overrides is not a public
interface. For a change of behaviour the first rung that reaches is taken:

1. a field of the request,
2. a flag of the server,
3. a registry of SGLang's,
4. a subclass that calls `super()`,
5. a hook around one method,
6. a patch.

A method's body is never copied. Everything relied on is listed here and fingerprinted: a hash of
its source is kept in `patches/fingerprints.json`. A server checks the version and all fingerprints
before it starts, and each scheduler process proves that its patches are in place; otherwise the
start fails and names the patch, the definition and the two versions. The way out is
`--program-policy none`, which is SGLang's own scheduler, or the pinned version.

`python -m autellix_sgl.doctor` shows the same for an installation, and with `--url` for every
process of a running server.

A definition is listed if code of ours assumes what it does, so that a change of it could go
unnoticed. What an error at the start or at the first call would show anyway (an argument, an
attribute, a class that is registered) is not. There are {count} of them. [porting.md](porting.md)
says how to move to another version of SGLang, and how a site with a patched SGLang answers for its
own changes.
"""

SEAMS_ARE = "Reached by subclassing, by a launcher argument or by a registration:"


def document() -> str:
    """The whole text of the file."""
    parts = [
        INTRODUCTION.format(version=SGLANG_VERSION, count=len(relied_on())),
        f"## Patches\n\n{_overview(PATCHES)}\n",
        *(_section(patch) for patch in PATCHES),
        f"## Relied on without a patch\n\n{SEAMS_ARE}\n\n{_listed(SEAMS)}\n",
    ]
    return "\n".join(parts)


def _overview(patches: Iterable[Patch]) -> str:
    rows = [
        (f"[{p.name}](#{p.name})", p.kind, p.since, p.upstream, str(len(p.relied_on)))
        for p in patches
    ]
    return table(("patch", "kind", "since", "upstream", "definitions"), rows)


def _section(patch: Patch) -> str:
    fields = [
        ("target", f"`{patch.target}`"),
        ("kind", patch.kind),
        ("reason", patch.reason),
        ("upstream", patch.upstream),
        ("remove when", patch.remove_when),
        ("since", f"SGLang {patch.since}"),
    ]
    depends = "What it depends on besides its target:\n\n" + _listed(patch.depends) + "\n"
    return f"### {patch.name}\n\n{table(('field', 'value'), fields)}\n" + (
        f"\n{depends}" if patch.depends else ""
    )


def _listed(reliances: Iterable[Reliance]) -> str:
    """A table for each module, in the order in which they come."""
    modules: dict[str, list[tuple[str, str, str]]] = {}
    for reliance in reliances:
        module, _, definition = reliance.target.partition(":")
        row = (f"`{definition}`", f"`{reliance.by.replace(', ', '`, `')}`", reliance.purpose)
        modules.setdefault(module, []).append(row)
    head = ("definition", "relied on by", "for what")
    return "\n\n".join(f"`{module}`\n\n{table(head, rows)}" for module, rows in modules.items())


if __name__ == "__main__":
    sys.exit(command("upstream.md", document, __doc__))
