"""Taking a request out of the batch, by a tree that only says what it holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import autellix_sgl.runtime  # noqa: F401 (prepares the process for sglang)


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_tree_with_recurrent_state_takes_no_unfinished_request(
    recurrent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it is released without a checkpoint, and marked retracted all the same."""
    from autellix_sgl.runtime import preemption

    done: list[Any] = []

    def release(_request: object, _tree: object, *, checkpoint: bool) -> None:
        done.append(checkpoint)

    monkeypatch.setattr(preemption, "release_kv_cache", release)
    request = SimpleNamespace(reset_for_retract=lambda: done.append("reset"))
    tree = SimpleNamespace(supports_mamba=lambda: recurrent)
    preemption.release(request, tree)
    assert done == [not recurrent, "reset"]
