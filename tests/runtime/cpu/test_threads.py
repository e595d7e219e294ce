"""Which cores a rank runs on."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from autellix_sgl.runtime.cpu import threads


def test_core_lists() -> None:
    """A list of cores may name single ones and ranges."""
    assert threads.parse_cores("0-2,5") == [0, 1, 2, 5]
    assert threads.parse_cores("3") == [3]


def test_unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a binding, or with all cores, a process stays where it is."""
    before = os.sched_getaffinity(0)
    monkeypatch.delenv(threads.BIND_VARIABLE, raising=False)
    assert threads.bind(0) is None
    monkeypatch.setenv(threads.BIND_VARIABLE, "all")
    assert threads.bind(3) is None
    assert os.sched_getaffinity(0) == before


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly and without overlap while there are enough; what the user says stays."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 0, 1, 2, 3})
    for ranks, shared in ((2, "0,1|2,3,7"), (5, "0|1|2|3|7"), (6, "0|0|1|2|3|7")):
        monkeypatch.setattr(os, "environ", {})
        threads.share(ranks)
        assert os.environ[threads.BIND_VARIABLE] == shared
    threads.share(3)
    assert os.environ[threads.BIND_VARIABLE] == shared


def test_one_rank_has_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set, as SGLang has it."""
    monkeypatch.setattr(os, "environ", {})
    threads.share(1)
    assert os.environ == {}


def test_bound_rank() -> None:
    """A bound rank has its cores and as many threads, whatever the machine has."""
    core = min(os.sched_getaffinity(0))
    program = (
        "import json, os, torch; from autellix_sgl.runtime.cpu import threads; threads.bind(1);"
        "print(json.dumps([sorted(os.sched_getaffinity(0)), torch.get_num_threads()]))"
    )
    environment = os.environ | {threads.BIND_VARIABLE: f"99|{core}"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True
    )
    assert json.loads(result.stdout) == [[core], 1]


def test_rank_without_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank the variable forgot is an error that names the variable."""
    monkeypatch.setenv(threads.BIND_VARIABLE, "0|1")
    with pytest.raises(ValueError, match=threads.BIND_VARIABLE):
        threads.bind(2)
