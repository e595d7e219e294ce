"""What another version of SGLang changes, by wheels that are built here; nothing is fetched."""

from __future__ import annotations

import json
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autellix_sgl.patches import fingerprint, inventory, port
from autellix_sgl.patches.record import Reliance

PACKAGE = Path(inventory.__file__).parent.parent
MOST_DEFINITIONS = 70

# One module, as installed; each test's wheel has another.
INSTALLED = """\
class Cache:
    def insert(self, key):
        return key

    def drop(self, key):
        return None


def release(request):
    return request.row
"""
INSERT, DROP, RELEASE = (
    f"sglang.cache:{name}" for name in ("Cache.insert", "Cache.drop", "release")
)


def wheel(folder: Path, sources: Mapping[str, str], version: str = "9.9.9") -> str:
    """A wheel of those files; returns its path."""
    path = folder / f"sglang-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, source in sources.items():
            archive.writestr(name, source)
        archive.writestr(
            f"sglang-{version}.dist-info/METADATA", f"Name: sglang\nVersion: {version}\n"
        )
    return str(path)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of three definitions of a tiny SGLang, which is what is installed."""
    package = tmp_path / "installed" / "sglang"
    package.mkdir(parents=True)
    (package / "cache.py").write_text(INSTALLED)
    reliances = [
        Reliance(INSERT, "runtime/scheduler/program_cache.py", "the key comes back"),
        Reliance(DROP, "runtime/scheduler/program_cache.py", "nothing comes back"),
        Reliance(RELEASE, "runtime/scheduler/preemption.py", "the row is given back"),
    ]
    monkeypatch.setattr(inventory, "reliances", lambda: reliances)
    monkeypatch.setattr(fingerprint, "_folder_of", lambda _: package)
    record = tmp_path / "fingerprints.json"
    monkeypatch.setattr(fingerprint, "RECORDED", record)
    fingerprint._parsed.cache_clear()
    record.write_text(json.dumps({t: fingerprint.fingerprint(t) for t in inventory.relied_on()}))
    return record


@pytest.fixture(autouse=True)
def forget_sources() -> None:
    """What was read of one test's files is not what the next one's hold."""
    fingerprint._parsed.cache_clear()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    status = port.main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_version_that_changes_nothing_relied_on_passes(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other definitions, and the text around those relied on, may differ."""
    source = "import os\n\n\n" + INSTALLED + "\n\ndef other():\n    return os\n"
    status, out, _ = run(capsys, wheel(tmp_path, {"sglang/cache.py": source}))
    assert status == 0
    assert "SGLang 9.9.9" in out
    assert "3 same, 0 changed, 0 new, 0 gone" in out


def test_a_change_is_shown_with_who_relies_on_it(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The difference, our file, what it assumes, and how to accept it; the rest is not shown."""
    source = INSTALLED.replace("request.row", "request.rows[0]")
    status, out, _ = run(capsys, wheel(tmp_path, {"sglang/cache.py": source}))
    assert status == 1
    assert f"changed: {RELEASE}" in out
    assert "runtime/scheduler/preemption.py: the row is given back" in out
    assert "-    return request.row\n+    return request.rows[0]" in out
    assert out.endswith("--accept release\n")
    assert INSERT not in out


def test_what_is_gone_is_named_and_cannot_be_accepted(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method that is gone, or a whole module."""
    path = wheel(tmp_path, {"sglang/cache.py": INSTALLED.replace("def drop", "def forget")})
    status, out, _ = run(capsys, path)
    assert status == 1
    assert f"gone: {DROP}" in out
    status, _, err = run(capsys, path, "--accept", "Cache.drop")
    assert status == 2
    assert "cannot be accepted" in err
    status, out, _ = run(capsys, wheel(tmp_path, {"sglang/other.py": ""}))
    assert (status, out.count("gone: ")) == (1, 3)


def test_only_what_is_named_is_accepted(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two have changed; the one that was read is recorded, the other is still to be read."""
    source = INSTALLED.replace("return key", "return key + 1").replace("request.row", "request.r")
    path = wheel(tmp_path, {"sglang/cache.py": source})
    before = json.loads(recorded.read_text())
    status, out, _ = run(capsys, path, "--accept", "Cache.insert")
    after = json.loads(recorded.read_text())
    assert status == 1
    assert f"accepted: {INSERT}" in out
    assert f"changed: {RELEASE}" in out
    assert {target for target in after if after[target] != before[target]} == {INSERT}
    assert run(capsys, path, "--accept", RELEASE)[0] == 0
    assert run(capsys, path)[0] == 0


def test_an_unknown_name_writes_nothing(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside one that is known, too."""
    path = wheel(tmp_path, {"sglang/cache.py": INSTALLED.replace("return key", "return 1")})
    before = recorded.read_text()
    status, _, err = run(capsys, path, "--accept", "Cache.insert,Cache.unheard_of")
    assert status == 2
    assert "Cache.unheard_of is not relied on" in err
    assert recorded.read_text() == before


def test_a_definition_that_is_newly_relied_on_is_read_first(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is recorded when it is accepted; what is no longer relied on is forgotten with it."""
    known = json.loads(recorded.read_text())
    hashed = known.pop(DROP)
    recorded.write_text(json.dumps({**known, "sglang.cache:no_longer": "0" * 16}))
    path = wheel(tmp_path, {"sglang/cache.py": INSTALLED})
    status, out, _ = run(capsys, path)
    assert status == 1
    assert f"new: {DROP}" in out
    assert run(capsys, path, "--accept", "Cache.drop")[0] == 0
    assert json.loads(recorded.read_text()) == {**known, DROP: hashed}


@pytest.mark.parametrize("what", ["0.5", "../sglang", "missing.whl"])
def test_what_is_no_wheel_is_refused(
    what: str, recorded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither version nor file, or a version that cannot be had."""
    failed: subprocess.CompletedProcess[str] = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    status, _, err = run(capsys, what)
    assert status == 2
    assert err.startswith("error: ")


def test_another_packages_wheel_is_refused(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a file that is no archive."""
    status, _, err = run(capsys, wheel(tmp_path, {"other/cache.py": INSTALLED}))
    assert status == 2
    assert "no wheel of SGLang" in err
    (tmp_path / "text.whl").write_text("text")
    assert run(capsys, str(tmp_path / "text.whl"))[0] == 2


def test_a_version_is_fetched_by_pip_without_its_requirements(
    recorded: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Into a folder that is gone afterwards."""
    commands: list[list[str]] = []

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        wheel(Path(command[command.index("--dest") + 1]), {"sglang/cache.py": INSTALLED}, "0.5.22")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", download)
    status, out, _ = run(capsys, "0.5.22")
    assert status == 0
    assert "SGLang 0.5.22" in out
    [command] = commands
    assert "--no-deps" in command
    assert command[-1] == "sglang==0.5.22"
    assert not Path(command[command.index("--dest") + 1]).exists()


@settings(deadline=None)
@given(above=st.lists(st.sampled_from(["", "# text", "import os", "x = 1"]), max_size=5))
def test_what_stands_around_a_definition_does_not_change_it(above: list[str]) -> None:
    """A fingerprint is of the definition's own lines."""
    source = "\n".join([*above, "def f():", "    return 1", *above])
    assert hash_of(source) == hash_of("def f():\n    return 1")
    assert hash_of(source) != hash_of("def f():\n    return 2")


def hash_of(source: str) -> str:
    """The fingerprint of ``f`` in *source*."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "module.py").write_text(source)
        return fingerprint.fingerprint("module:f", Path(folder))


# -- our own records ----------------------------------------------------------------------------


def test_what_is_installed_passes_as_a_wheel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real records against the real sources; with one changed, that one is to be read."""
    targets = inventory.relied_on()
    modules = {f"{t.partition(':')[0].replace('.', '/')}.py" for t in targets}
    installed = fingerprint._folder_of("sglang").parent
    sources = {name: (installed / name).read_text() for name in modules}
    assert run(capsys, wheel(tmp_path, sources, fingerprint.SGLANG_VERSION))[0] == 0
    name = "sglang/srt/mem_cache/common.py"
    sources[name] = sources[name].replace("tree_cache.unlock(req.lock)", "pass")
    status, out, _ = run(capsys, wheel(tmp_path, sources, "0.5.99"))
    assert status == 1
    assert f"{len(targets) - 1} same, 1 changed, 0 new, 0 gone" in out
    assert "changed: sglang.srt.mem_cache.common:release_kv_cache" in out
    assert "runtime/scheduler/preemption.py: " in out


def test_every_reliance_names_files_of_ours_and_a_purpose() -> None:
    """And no definition is listed twice."""
    for reliance in inventory.reliances():
        assert reliance.purpose, reliance
        for name in reliance.by.split(", "):
            assert (PACKAGE / name).is_file(), reliance
    assert len(inventory.reliances()) == len(inventory.relied_on())


def test_few_definitions_are_relied_on() -> None:
    """Each has to be read when SGLang changes it."""
    assert len(inventory.relied_on()) <= MOST_DEFINITIONS
    assert sorted(fingerprint.recorded()) == sorted(inventory.relied_on())
