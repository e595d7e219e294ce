"""Who may import whom, read from the source; the pure packages also run without the engine.

    core          errors                             pure: no clock, no randomness, no I/O
    workloads     errors                             pure
    sim           core, workloads, errors            pure
    runtime       core, config, errors, patches      the engine side
    patches       errors                             the engine side
    frontend      errors                             sglang.lang, in one file
    the rest      anything of ours                   what is run by name

Inside core and runtime a room uses only those on the floors below it:

    core          scheduling > memory > programs > placement > calls
    runtime       launch > http > tokenizer | scheduler > metrics | identity > cpu > wire

And no modules of ours import each other in a circle. Imports inside functions and those for type
checkers count too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "autellix_sgl"

# A package of ours -> what else of ours it may import.
ALLOWED = {
    "core": {"errors"},
    "workloads": {"errors"},
    "sim": {"core", "workloads", "decision_trace", "errors"},
    "runtime": {"core", "config", "decision_trace", "errors", "patches"},
    "patches": {"errors"},
    "frontend": {"errors"},
    "decision_trace": {"errors"},
    "errors": set[str](),
    "config": {"core", "errors"},
}
# The rooms of a package, floor by floor from the lowest; two on one floor do not use each other.
CORE_FLOORS = (("calls",), ("placement",), ("programs",), ("memory",), ("scheduling",))
RUNTIME_FLOORS = (
    ("wire", "asgi", "process_report"),
    ("cpu",),
    ("metrics", "identity"),
    ("tokenizer", "scheduler"),
    ("http",),
    ("launch",),
)

PURE = ("core", "workloads", "sim")
HEAVY = ("sglang", "torch")

# Modules whose values differ between ranks or runs, or that reach outside of the process.
BANNED_IN_CORE = ("time", "random", "asyncio", "threading", "os", "socket", "secrets", "uuid")

# What is run by name and hands over to SGLang imports it, but inside functions: a port check or
# a mistyped flag must not take seconds.
LAUNCHERS = ("launch_server", "engine")
LANGUAGE = "sglang.lang"


def folder_of(part: str) -> Path:
    """The source of a part of ours; ``patches`` is installed from the repository's root."""
    return ROOT / "patches" if part == "patches" else ROOT / PACKAGE / part


def part_of(path: Path) -> str:
    """The package of ours, or the top-level module, that a source file belongs to."""
    if path.is_relative_to(ROOT / "patches"):
        return "patches"
    return path.relative_to(ROOT / PACKAGE).with_suffix("").parts[0]


def module_name(path: Path) -> str:
    """By which it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "patches":
        parts = (PACKAGE, *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> list[Path]:
    return sorted([*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "patches").rglob("*.py")])


def sources_of(part: str) -> list[Path]:
    return [path for path in sources() if part_of(path) == part]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Every module that *path* imports, absolute and dotted, wherever the statement stands."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide who is imported"
            assert node.module is not None
            # The name may be a module too: "from autellix_sgl import default_model".
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def is_under(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def where(path: Path, node: ast.stmt | ast.expr) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    """The table in this file's docstring."""
    part = part_of(path)
    if part not in ALLOWED:
        return
    allowed = ALLOWED[part] | {part}
    for module, node in imports_of(path):
        if is_under(module, PACKAGE) and module != f"{PACKAGE}.__version__":
            imported = module.split(".")[1]
            assert imported in allowed, f"{where(path, node)}: {part} imports {module}"


Floors = tuple[tuple[str, ...], ...]


def room_of(part: str, path: Path) -> str:
    """The room of a package that a source file is in; empty for the package's own __init__."""
    name = path.relative_to(folder_of(part)).with_suffix("").parts[0]
    return "" if name == "__init__" else name


def storeys_up(part: str, floors: Floors, path: Path) -> Iterator[str]:
    """Imports of *path* out of its room that do not lead to a floor below it."""
    floor_of = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    room = room_of(part, path)
    for module, node in imports_of(path):
        if not room or not is_under(module, f"{PACKAGE}.{part}"):
            continue
        other = module.split(".")[2]
        if other != room and not (other in floor_of and floor_of[other] < floor_of[room]):
            yield f"{where(path, node)}: {room} imports {module}"


@pytest.mark.parametrize("path", sources_of("core"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_of_core_uses_only_those_below_it(path: Path) -> None:
    """Nor does it import what the package offers to others."""
    assert not list(storeys_up("core", CORE_FLOORS, path))


@pytest.mark.parametrize(
    "path", sources_of("runtime"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_room_of_the_runtime_uses_only_those_below_it(path: Path) -> None:
    """The tokenizer's process and the scheduler's meet in the wire only."""
    assert not list(storeys_up("runtime", RUNTIME_FLOORS, path))


@pytest.mark.parametrize(("part", "floors"), [("core", CORE_FLOORS), ("runtime", RUNTIME_FLOORS)])
def test_every_room_has_its_floor(part: str, floors: Floors) -> None:
    """No folder or module beside them."""
    rooms = {room_of(part, path) for path in sources_of(part)} - {""}
    assert rooms == {room for floor in floors for room in floor}


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its name."""
    return {module_name(path): path for path in sources()}


@cache
def imports_by_module() -> dict[str, set[str]]:
    """Of each module of ours, those of ours that it imports."""
    return {name: set(imported_modules(path)) - {name} for name, path in modules().items()}


def imported_modules(path: Path) -> Iterator[str]:
    """The modules of ours that *path* names: a module's own name, not the packages it is in."""
    for imported, _ in imports_of(path):
        for name in (imported, imported.rpartition(".")[0]):
            if name in modules():
                yield name
                break


def way_back(module: str, graph: dict[str, set[str]]) -> list[str]:
    """A shortest way along imports from *module* to itself; empty if there is none."""
    came_from = {}
    reached = [module]
    for here in reached:
        for following in sorted(graph[here]):
            if following == module:
                way = [here]
                while way[-1] != module:
                    way.append(came_from[way[-1]])
                return [*reversed(way), module]
            if following not in came_from:
                came_from[following] = here
                reached.append(following)
    return []


def circle_through(module: str) -> str:
    return " -> ".join(way_back(module, imports_by_module()))


OUTSIDE_RUNTIME = [name for name in modules() if not is_under(name, f"{PACKAGE}.runtime")]
INSIDE_RUNTIME = [name for name in modules() if is_under(name, f"{PACKAGE}.runtime")]


@pytest.mark.parametrize("module", OUTSIDE_RUNTIME)
def test_no_module_imports_itself_by_a_circle(module: str) -> None:
    """Through whatever others: then neither can be read, or used, without the other."""
    assert not circle_through(module)


@pytest.mark.parametrize("module", INSIDE_RUNTIME)
def test_no_module_of_the_runtime_imports_itself_by_a_circle(module: str) -> None:
    """As above."""
    assert not circle_through(module)


def test_a_circle_is_found() -> None:
    """By its shortest way; what only leads to it is in none."""
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"d"}, "d": {"b"}}
    assert way_back("a", graph) == []
    assert way_back("c", graph) == ["c", "d", "b", "c"]
    assert way_back("d", graph) == ["d", "b", "d"]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_sglang_and_torch_stay_on_the_engine_side(path: Path) -> None:
    """In runtime and patches; in launchers inside functions; sglang.lang in the frontend."""
    part = part_of(path)
    if part in ("runtime", "patches"):
        return
    for module, node in imports_of(path):
        if not is_under(module, *HEAVY):
            continue
        lazy = node not in tree_of(path).body
        if part in LAUNCHERS and lazy:
            continue
        assert part == "frontend", f"{where(path, node)}: imports {module}"
        assert is_under(module, LANGUAGE), f"{where(path, node)}: imports {module}"


def test_one_file_of_the_frontend_speaks_sglangs_language() -> None:
    """So that all others can be used where sglang is not installed."""
    speaking = {
        path.name
        for path in sources_of("frontend")
        for module, _ in imports_of(path)
        if is_under(module, LANGUAGE)
    }
    assert len(speaking) <= 1


@pytest.mark.parametrize("path", sources_of("core"), ids=lambda path: path.name)
def test_core_has_no_clock_no_randomness_and_no_io(path: Path) -> None:
    """Every rank and every replay has to decide alike."""
    for module, node in imports_of(path):
        assert not is_under(module, *BANNED_IN_CORE), f"{where(path, node)}: imports {module}"


@pytest.mark.parametrize("path", sources_of("core"), ids=lambda path: path.name)
def test_core_never_iterates_over_a_set(path: Path) -> None:
    """A set of strings has another order in every process."""
    for node in ast.walk(tree_of(path)):
        for iterated in iterated_by(node):
            assert not is_set(iterated), f"{where(path, iterated)}: iterates over a set"


def iterated_by(node: ast.AST) -> Iterator[ast.expr]:
    """What *node* goes through in the order it comes."""
    if isinstance(node, ast.For | ast.comprehension):
        yield node.iter
    elif isinstance(node, ast.Starred):
        yield node.value
    elif isinstance(node, ast.Call):
        order_matters = ("list", "tuple", "iter", "next", "enumerate", "zip", "map", "join")
        function = node.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        if name in order_matters:
            yield from node.args


def is_set(node: ast.expr) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("set", "frozenset")
    )


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("for x in {1, 2}: pass", True),
        ("[x for x in set(y)]", True),
        ("list({x for x in y})", True),
        ("','.join(frozenset(y))", True),
        ("f(*{1, 2})", True),
        ("for x in sorted({1, 2}): pass", False),
        ("x in {1, 2}", False),
        ("for x in [1, 2]: pass", False),
    ],
)
def test_the_rule_about_sets_catches_what_it_should(source: str, caught: bool) -> None:
    """Iteration in an order that matters; membership and sorting are fine."""
    nodes = ast.walk(ast.parse(source))
    assert any(is_set(found) for node in nodes for found in iterated_by(node)) == caught


@pytest.mark.parametrize("part", [part for part in PURE if folder_of(part).is_dir()])
def test_a_pure_package_imports_without_torch_and_sglang(part: str) -> None:
    """Every module of it (but the command itself), in a process where neither can be imported."""
    modules = [module_name(path) for path in sources_of(part) if path.name != "__main__.py"]
    script = "import sys; sys.modules['sglang'] = sys.modules['torch'] = None\n" + "\n".join(
        f"import {module}" for module in modules
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_importing_the_package_is_cheap() -> None:
    """``import autellix_sgl`` and the doctor load neither torch nor sglang."""
    script = (
        f"import sys, {PACKAGE}, {PACKAGE}.doctor.command, {PACKAGE}.config\n"
        "print([m for m in ('torch', 'sglang', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
