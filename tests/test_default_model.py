"""Preparing the default model: once, whole or not at all. A stand-in converts, in no time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autellix_sgl import default_model
from autellix_sgl.errors import ModelError

ROOT = Path(__file__).parent.parent


class Converter:
    """Writes a small "model" and counts how often it is asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, gguf: Path, folder: Path) -> None:
        assert gguf.suffix == ".gguf"
        self.calls += 1
        (folder / "model.safetensors").write_bytes(b"weights" * 100)
        (folder / "config.json").write_text("{}")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and an installed package with a GGUF file."""
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    monkeypatch.setattr(default_model, "_gguf_file", lambda: gguf)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "autellix_sgl"


@pytest.fixture
def converter() -> Converter:
    return Converter()


def test_the_model_is_converted_once(converter: Converter) -> None:
    """The second call finds the folder of the first."""
    folder = default_model.ensure(converter)
    assert default_model.ensure(converter) == folder == default_model.folder()
    assert converter.calls == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "model.safetensors", 3),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "stray.bin").write_bytes(b"x"),
    ],
    ids=["truncated", "file missing", "manifest missing", "manifest damaged", "file too many"],
)
def test_a_damaged_folder_is_rebuilt(converter: Converter, damage: object) -> None:
    """A folder that is not exactly what was written is made anew."""
    folder = default_model.ensure(converter)
    assert callable(damage)
    damage(folder)
    assert not default_model.is_complete(folder)
    assert default_model.is_complete(default_model.ensure(converter))
    assert converter.calls == 2


def test_a_folder_of_another_recipe_is_rebuilt(
    converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade that converts differently, the old folder no longer counts."""
    default_model.ensure(converter)
    monkeypatch.setattr(default_model, "_RECIPE", default_model._RECIPE + 1)
    default_model.ensure(converter)
    assert converter.calls == 2


def test_a_conversion_that_fails_leaves_nothing(cache: Path, converter: Converter) -> None:
    """An exception in the middle removes what was written and is passed on."""

    def fails(gguf: Path, folder: Path) -> None:
        converter(gguf, folder)
        raise ValueError("bad weights")

    with pytest.raises(ValueError, match="bad weights"):
        default_model.ensure(fails)
    assert [entry.name for entry in cache.iterdir()] == [".lock"]


def test_a_killed_conversion_is_cleaned_up_by_the_next(cache: Path, converter: Converter) -> None:
    """A process killed while converting leaves no model, blocks nobody, and its draft goes."""
    with _converting_process(cache):
        pass  # leaving kills it
    assert not default_model.folder().exists()
    assert list(cache.glob(".converting-*"))

    folder = default_model.ensure(converter)
    assert default_model.is_complete(folder)
    assert not list(cache.glob(".converting-*"))


def test_only_one_of_two_processes_converts(cache: Path, converter: Converter) -> None:
    """A second process waits for the first and takes its result."""
    with _converting_process(cache) as process:
        (cache.parent / "go").touch()
        folder = default_model.ensure(converter)
        assert process.wait(timeout=30) == 0
    assert converter.calls == 0
    assert (folder / "model.safetensors").read_bytes() == b"theirs"


def test_too_little_disk_space_is_one_clear_line(
    converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is begun that cannot be finished; the message says how much is missing where."""
    monkeypatch.setattr(default_model, "NEEDED_BYTES", 1 << 62)
    with pytest.raises(ModelError, match=r"needs \d+ MB in .*autellix_sgl.* MB free"):
        default_model.ensure(converter)
    assert converter.calls == 0


def test_a_cache_that_cannot_be_made_is_one_clear_line(
    converter: Converter, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where the cache should be is reported as such, not as a traceback."""
    cache.parent.write_text("in the way")
    with pytest.raises(ModelError, match="cannot prepare the default model in"):
        default_model.ensure(converter)


def test_a_missing_package_is_one_clear_line(
    converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package that carries the weights, the message names it and the ways out."""
    monkeypatch.undo()
    monkeypatch.setattr(default_model, "DISTRIBUTION", "no-such-package")
    with pytest.raises(ModelError, match=r"no-such-package.*--model-path"):
        default_model._gguf_file()


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME counts only when absolute, as its specification says."""
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_model.folder().parent == tmp_path / ".cache" / "autellix_sgl"


CONVERTS_UNTIL_GO = """
import sys, time
from pathlib import Path
from autellix_sgl import default_model

go = Path(sys.argv[1])
default_model._gguf_file = lambda: go

def convert(gguf, folder):
    (folder / "model.safetensors").write_bytes(b"theirs")
    while not go.exists():
        time.sleep(0.01)

default_model.ensure(convert)
"""


@contextlib.contextmanager
def _converting_process(cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of a conversion, which ends it when the file ``go`` appears."""
    go = cache.parent / "go"
    process = subprocess.Popen([sys.executable, "-c", CONVERTS_UNTIL_GO, str(go)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not list(cache.glob(".converting-*/model.safetensors")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()
