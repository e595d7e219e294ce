"""The shares' file: what it may say, whose share a call counts against, and new versions of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from autellix_sgl.config import ProgramArgs
from autellix_sgl.errors import ConfigError
from autellix_sgl.launch_server import main, parse_program_args
from autellix_sgl.runtime.tokenizer.shares import Shares, SharesFile


def written(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_a_weight_is_told_against_the_largest() -> None:
    """Which is 1; who is not in the file has the default."""
    shares = Shares.of({"weights": {"big": 4, "small": 0.5}})
    assert shares.of_call("big", None) == ("big", 1.0)
    assert shares.of_call("small", None) == ("small", 0.125)
    assert shares.of_call("other", None) == ("other", 0.25)
    assert Shares.of({"default": 8, "weights": {"big": 4}}).of_call("other", None)[1] == 1.0


def test_an_empty_file_gives_everybody_the_same() -> None:
    """By tenant."""
    assert Shares.of({}).of_call("any", "user") == ("any", 1.0)


def test_users_have_shares_inside_their_tenant() -> None:
    """The same name under two tenants is two users; who names none counts as the tenant."""
    shares = Shares.of({"by": "user", "weights": {"one/ann": 3, "ann": 2}})
    assert shares.of_call("one", "ann") == ("one/ann", 1.0)
    assert shares.of_call("two", "ann") == ("two/ann", 1 / 3)
    assert shares.of_call("", "ann") == ("ann", 2 / 3)
    assert shares.of_call("one", None) == ("one", 1 / 3)
    assert shares.of_call("", None) == ("", 1 / 3)


def test_toml_says_the_same(tmp_path: Path) -> None:
    """By the file's name."""
    path = tmp_path / "shares.toml"
    path.write_text('by = "user"\ndefault = 2\n[weights]\nann = 3\n', encoding="utf-8")
    assert Shares.load(path) == Shares("user", {"ann": 3.0}, 2.0)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([], "object"),
        ({"weight": {}}, "'weight' is unknown"),
        ({"by": "team"}, "by: must be"),
        ({"weights": ["a"]}, "weights: expected"),
        ({"weights": {"a": 0}}, "'a': a weight must be positive"),
        ({"weights": {"a": -1}}, "'a': a weight must be positive"),
        ({"weights": {"a": "2"}}, "'a': a weight must be a number"),
        ({"weights": {"a": True}}, "'a': a weight must be a number"),
        ({"default": 1e999}, "default: a weight must be positive and finite"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: Any, problem: str
) -> None:
    """Before anything is started; the flag, the file and the field are named."""
    path = written(tmp_path / "shares.json", data)
    assert main(["--program-shares", str(path)]) == 1
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert f"--program-shares {path}: " in error
    assert problem in error


@pytest.mark.parametrize(("name", "kind"), [("s.json", "JSON"), ("s.toml", "TOML")])
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    """No file, and no JSON or TOML in it."""
    path = tmp_path / name
    with pytest.raises(ConfigError, match="No such file"):
        parse_program_args(["--program-shares", str(path)])
    path.write_text("{,}", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"not {kind}"):
        parse_program_args(["--program-shares", str(path)])


def test_sglangs_own_scheduler_knows_no_shares() -> None:
    """The two flags together are a mistake."""
    with pytest.raises(ConfigError, match="--program-shares"):
        ProgramArgs(policy="none", shares="shares.json")


def test_a_new_version_takes_effect(tmp_path: Path) -> None:
    """At the next look; a look at the same file reads nothing."""
    path = written(tmp_path / "shares.json", {"weights": {"a": 2}})
    file = SharesFile(path)
    file.look()
    assert (file.loaded, file.shares.of_call("b", None)[1]) == (1, 0.5)
    written(path, {"weights": {"a": 10}})
    file.look()
    assert (file.loaded, file.shares.of_call("b", None)[1]) == (2, 0.1)


def test_a_bad_version_changes_nothing_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once in the log for each bad version; a good one ends it."""
    path = written(tmp_path / "shares.json", {"weights": {"a": 2}})
    file = SharesFile(path)
    before = file.shares
    with caplog.at_level(logging.ERROR):
        for content in ("{", None):
            path.unlink() if content is None else path.write_text(content, encoding="utf-8")
            file.look()
            file.look()
    assert file.shares is before
    assert (file.loaded, file.rejected, file.current) == (1, 2, 0)
    assert [str(path) in record.getMessage() for record in caplog.records] == [True, True]
    written(path, {"weights": {"a": 3}})
    file.look()
    assert (file.loaded, file.rejected, file.current) == (2, 2, 1)
