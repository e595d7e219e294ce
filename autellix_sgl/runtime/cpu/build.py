"""Compile the kernels once a machine and load them.

The result is kept under the cache directory (``$XDG_CACHE_HOME`` or ``~/.cache``), in
``autellix_sgl/cpu-kernels/<key>``, where the key covers everything the binary depends on: sources,
flags, torch, Python and what the CPU can do. A file lock lets one process compile while the others
(tensor- and data-parallel ranks) wait; the directory appears whole, by a rename.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.machinery
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch

from autellix_sgl.runtime.cpu.ops import Kernels

logger = logging.getLogger(__name__)

MODULE = "autellix_cpu_kernels"
SOURCES = Path(__file__).parent / "kernels"
PROGRESS_SECONDS = 5.0


class KernelsUnavailable(RuntimeError):
    """The kernels cannot be compiled or loaded on this machine; the message says why."""


def load_kernels() -> Kernels:
    """The compiled kernels, compiling them first if this machine has not done so yet.

    Raises KernelsUnavailable without a C++ compiler, Python's headers or a place for the result.
    """
    flags = compile_flags()
    directory = cache_directory() / build_key(flags)
    library = directory / f"{MODULE}.so"
    try:
        if not library.exists():
            directory.parent.mkdir(parents=True, exist_ok=True)
            with _lock(directory.with_suffix(".lock")):
                if not library.exists():
                    _compile(directory, flags)
        return _load(library)
    except (OSError, ImportError, subprocess.SubprocessError) as error:
        raise KernelsUnavailable(str(error)) from error


def cache_directory() -> Path:
    """Where compiled kernels are kept, beside the default model."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "autellix_sgl" / "cpu-kernels"


def compile_flags() -> list[str]:
    """Flags for this CPU. ATen's vectors are chosen by macros, which must agree with -march."""
    capability = torch.backends.cpu.get_cpu_capability()
    flags = ["-O3", "-std=c++20", "-fopenmp", "-march=native", "-Wno-unknown-pragmas"]
    if capability in ("AVX512", "AVX2"):
        flags += [f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}"]
    return flags


def build_key(flags: list[str]) -> str:
    """Name of the directory of what is compiled from these sources, with these flags, here."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    parts = [torch.__version__, sys.version, platform.machine(), _cpu_features(), *flags]
    digest.update("\n".join(parts).encode())
    return digest.hexdigest()[:16]


def _cpu_features() -> str:
    """The instruction sets -march=native sees: a home directory may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(directory: Path, flags: list[str]) -> None:
    """Compile into a scratch directory beside *directory* and rename it into place."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise KernelsUnavailable(f"no C++ compiler ({compiler}) is installed")
    from torch.utils import cpp_extension  # imports setuptools; not needed once compiled

    sources = sorted(str(path) for path in SOURCES.glob("*.cpp"))
    scratch = tempfile.mkdtemp(prefix="build-", dir=directory.parent)
    try:
        with _ninja_on_path(), _progress(Path(scratch), len(sources)):
            cpp_extension.load(
                MODULE,
                sources,
                extra_cflags=flags,
                extra_ldflags=["-fopenmp"],
                build_directory=scratch,
                is_python_module=False,
            )
        for left_over in Path(scratch).glob("*.o"):
            left_over.unlink()
        shutil.rmtree(directory, ignore_errors=True)
        os.rename(scratch, directory)
    except RuntimeError as error:  # what cpp_extension raises for a failed compilation
        raise KernelsUnavailable(f"compilation failed: {_last_lines(str(error))}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _last_lines(text: str, *, count: int = 5) -> str:
    return " | ".join(text.strip().splitlines()[-count:])


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _ninja_on_path() -> Iterator[None]:
    """Ninja comes as a Python package, whose scripts are not on the path of an inactive venv."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([before, os.path.dirname(sys.executable)])
    try:
        yield
    finally:
        os.environ["PATH"] = before


@contextmanager
def _progress(scratch: Path, total: int) -> Iterator[None]:
    """Log that a compilation runs, how far it is every few seconds, and how long it took."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(PROGRESS_SECONDS):
            ready = len(list(scratch.glob("*.o")))
            logger.info("CPU kernels: %d of %d files compiled", ready, total)

    start = time.monotonic()
    logger.info("Compiling the CPU kernels, once for this machine (about half a minute)")
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    logger.info("CPU kernels compiled in %.0f s", time.monotonic() - start)


def _load(library: Path) -> Kernels:
    loader = importlib.machinery.ExtensionFileLoader(MODULE, str(library))
    spec = importlib.util.spec_from_file_location(MODULE, library, loader=loader)
    if spec is None:
        raise ImportError(f"{library} is not an extension module")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return cast(Kernels, module)
