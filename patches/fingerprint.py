"""Has the upstream source we rely on changed? Read without importing it.

``fingerprints.json`` beside this file holds, for one SGLang version, a hash of every definition
that a patch or a subclass of ours assumes. ``python -m autellix_sgl.patches.fingerprint`` compares
them with what is installed; ``autellix_sgl.patches.port`` takes them anew (docs/porting.md).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Collection, Iterable
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


def definition(target: str, root: Path | None = None) -> str:
    """The source of ``module:Qualified.name``, decorators included; raises Missing.

    *root* is the folder that the packages lie in, by default that of the installed one.
    """
    module, _, qualified = target.partition(":")
    lines, tree = _parsed(module, root)
    node: ast.AST = tree
    for name in qualified.split("."):
        node = _child(node, name, target)
    assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return "\n".join(line.rstrip() for line in lines[first - 1 : node.end_lineno])


def fingerprint(target: str, root: Path | None = None) -> str:
    """Hash of the source of ``module:Qualified.name``; raises Missing.

    The text is hashed, not the syntax tree's dump: the pin is exact, and a dump differs between
    Python versions.
    """
    return hashlib.sha256(definition(target, root).encode()).hexdigest()[:16]


def recorded() -> dict[str, str]:
    """The fingerprints that were taken of SGLANG_VERSION."""
    data: dict[str, str] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return data


def mismatches(targets: Iterable[str], accepted: Collection[str] = ()) -> list[str]:
    """One sentence for each target that is missing, or differs and is not *accepted*."""
    expected = recorded()
    problems: list[str] = []
    for target in targets:
        try:
            found = fingerprint(target)
        except Missing as error:
            problems.append(str(error))
            continue
        if found == expected.get(target) or target in accepted:
            continue
        if target in expected:
            problems.append(f"{target} has changed ({expected[target]} -> {found})")
        else:
            problems.append(f"{target} was never fingerprinted")
    return problems


def changed(targets: Iterable[str]) -> list[str]:
    """Those of *targets* that are there, and not as recorded."""
    expected = recorded()
    found = []
    for target in targets:
        try:
            if fingerprint(target) != expected.get(target):
                found.append(target)
        except Missing:
            continue
    return found


@cache
def _parsed(module: str, root: Path | None) -> tuple[list[str], ast.Module]:
    package, *rest = module.split(".")
    base = (_folder_of(package) if root is None else root / package).joinpath(*rest)
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if not path.is_file():
        raise Missing(f"{module} does not exist")
    source = path.read_text(encoding="utf-8")
    return source.splitlines(), ast.parse(source)


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Missing(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def _child(node: ast.AST, name: str, target: str) -> ast.AST:
    for child in ast.iter_child_nodes(node):
        if (
            isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and child.name == name
        ):
            return child
    raise Missing(f"{target} does not exist")


def main() -> int:
    """Compare what is installed with what is recorded; returns the exit status."""
    from autellix_sgl.patches.inventory import relied_on

    targets = relied_on()
    problems = mismatches(targets)
    print("\n".join(problems) or f"all {len(targets)} definitions are as recorded")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
