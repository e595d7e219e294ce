"""The check of the installed SGLang that stands before every start."""

from __future__ import annotations

import pytest

from autellix_sgl.errors import ActivationError
from autellix_sgl.patches import fingerprint
from autellix_sgl.patches.acceptance import VARIABLE
from autellix_sgl.patches.inventory import relied_on
from autellix_sgl.runtime.launch.activation import activate, check_upstream

RELEASE = "sglang.srt.mem_cache.common:release_kv_cache"
RESET = "sglang.srt.managers.schedule_batch:Req.reset_for_retract"


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SGLang in which one definition is another than was recorded."""
    taken = fingerprint.recorded()
    monkeypatch.setattr(fingerprint, "recorded", lambda: {**taken, RELEASE: "0" * 16})


def test_what_is_installed_is_what_was_recorded() -> None:
    """Version and every definition."""
    check_upstream()


def test_a_changed_definition_stops_the_start(patched: None) -> None:
    """The message names it, the versions and where to read on."""
    with pytest.raises(ActivationError, match="release_kv_cache has changed") as caught:
        check_upstream()
    assert fingerprint.SGLANG_VERSION in str(caught.value)
    assert "docs/porting.md" in str(caught.value)


@pytest.mark.parametrize("name", ["release_kv_cache", RELEASE, f" {RELEASE} ,"])
def test_a_change_that_the_site_answers_for_is_accepted(
    patched: None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its short or its whole name; the process says so."""
    monkeypatch.setenv(VARIABLE, name)
    check_upstream()
    assert activate("main", {}).accepted == (RELEASE,)


def test_accepting_one_change_accepts_no_other(
    patched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly those named."""
    monkeypatch.setenv(VARIABLE, RESET)
    with pytest.raises(ActivationError, match="release_kv_cache has changed"):
        check_upstream()


def test_a_definition_that_is_missing_is_never_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing that somebody could have read."""

    def missing(target: str, _root: object = None) -> str:
        raise fingerprint.Missing(f"{target} does not exist")

    monkeypatch.setenv(VARIABLE, ",".join(relied_on()))
    monkeypatch.setattr(fingerprint, "fingerprint", missing)
    with pytest.raises(ActivationError, match="release_kv_cache does not exist"):
        check_upstream()


@pytest.mark.parametrize("name", ["unheard_of", "Scheduler", "sglang.srt:release_kv_cache"])
def test_a_name_of_nothing_relied_on_stops_the_start(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a mistake, or what it meant is not recorded any more."""
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(ActivationError, match=f"{VARIABLE}: {name} is not relied on"):
        check_upstream()


def test_what_is_accepted_and_unchanged_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process reports what differs in it."""
    monkeypatch.setenv(VARIABLE, RELEASE)
    assert activate("main", {}).accepted == ()
