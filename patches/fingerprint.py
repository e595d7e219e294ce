"""Has the upstream source we rely on changed? Read without importing it.

``fingerprints.json`` beside this file holds, for one SGLang version, a hash of every definition
that a patch or a subclass of ours assumes. ``python -m autellix_sgl.patches.fingerprint --write``
takes them anew, after somebody has read what changed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RECORDED = Path(__file__).with_name("fingerprints.json")
SGLANG_VERSION = "0.5.23"


class Missing(LookupError):
    """A definition that is not where it is expected."""


def installed_version() -> str | None:
    """SGLang's version, or None when it is not installed."""
    try:
        return version("sglang")
    except PackageNotFoundError:
        return None


def fingerprint(target: str) -> str:
    """Hash of the source of ``module:Qualified.name``; raises Missing.

    The text is hashed, not the syntax tree's dump: the pin is exact, and a dump differs between
    Python versions.
    """
    module, _, qualified = target.partition(":")
    lines, tree = _parsed(module)
    node: ast.AST = tree
    for name in qualified.split("."):
        node = _child(node, name, target)
    assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    text = "\n".join(line.rstrip() for line in lines[first - 1 : node.end_lineno])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def recorded() -> dict[str, str]:
    """The fingerprints that were taken of SGLANG_VERSION."""
    data: dict[str, str] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return data


def mismatches(targets: Iterable[str]) -> list[str]:
    """One sentence for each target that is missing or differs from what was recorded."""
    expected = recorded()
    problems: list[str] = []
    for target in targets:
        try:
            found = fingerprint(target)
        except Missing as error:
            problems.append(str(error))
            continue
        if target not in expected:
            problems.append(f"{target} was never fingerprinted")
        elif found != expected[target]:
            problems.append(f"{target} has changed ({expected[target]} -> {found})")
    return problems


@cache
def _parsed(module: str) -> tuple[list[str], ast.Module]:
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Missing(f"{package} is not installed")
    base = Path(spec.submodule_search_locations[0]).joinpath(*rest)
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if not path.is_file():
        raise Missing(f"{module} does not exist")
    source = path.read_text(encoding="utf-8")
    return source.splitlines(), ast.parse(source)


def _child(node: ast.AST, name: str, target: str) -> ast.AST:
    for child in ast.iter_child_nodes(node):
        if (
            isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and child.name == name
        ):
            return child
    raise Missing(f"{target} does not exist")


def main(argv: list[str]) -> int:
    """Compare with what is recorded, or with ``--write`` record anew; returns the exit status."""
    from autellix_sgl.patches.inventory import relied_on

    targets = relied_on()
    if argv == ["--write"]:
        taken = {target: fingerprint(target) for target in sorted(targets)}
        RECORDED.write_text(json.dumps(taken, indent=1) + "\n", encoding="utf-8")
        print(f"{len(taken)} fingerprints of SGLang {installed_version()} written to {RECORDED}")
        return 0
    problems = mismatches(targets)
    print("\n".join(problems) or f"all {len(targets)} definitions are as recorded")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
