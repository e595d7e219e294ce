"""Where the kernels are kept, and what happens when they cannot be built."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from autellix_sgl.runtime.cpu import build
from autellix_sgl.runtime.cpu.ops import Kernels


def test_cache_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernels lie in the user's cache directory, beside the default model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_directory() == tmp_path / "autellix_sgl" / "cpu-kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build.cache_directory() == tmp_path / ".cache" / "autellix_sgl" / "cpu-kernels"


def test_key_covers_sources_and_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A changed source or flag never meets an old binary."""
    source = tmp_path / "a.cpp"
    source.write_text("int a;")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    first = build.build_key(["-O3"])
    assert build.build_key(["-O3"]) == first
    assert build.build_key(["-O2"]) != first
    source.write_text("int b;")
    assert build.build_key(["-O3"]) != first


def test_second_load_does_not_compile(
    kernels: Kernels, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once compiled, the kernels load without a compiler."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.INFO):
        assert build.load_kernels() is not None
    assert not caplog.messages


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a compiler is told so, and nothing half-built is left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.KernelsUnavailable, match="no C\\+\\+ compiler"):
        build.load_kernels()
    assert [path.suffix for path in build.cache_directory().iterdir()] == [".lock"]


def test_compilation_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A failed compilation is reported with the compiler's last lines and leaves nothing behind."""
    sources = tmp_path / "kernels"
    sources.mkdir()
    (sources / "broken.cpp").write_text("#error broken on purpose\n")
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(build.KernelsUnavailable, match="compilation failed"):
        build.load_kernels()
    assert [path.suffix for path in build.cache_directory().iterdir()] == [".lock"]


def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache directory that cannot be made is a reason to fall back, not to crash."""
    (tmp_path / "autellix_sgl").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(build.KernelsUnavailable):
        build.load_kernels()
