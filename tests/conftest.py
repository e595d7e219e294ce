"""Fixtures shared by all tests. A test that starts a server is marked ``engine``."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.engine.tiny_model import build_tiny_model

# How long an example takes is the machine's affair.
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with the default model's tokenizer; its weights are dummies."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny-model"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fast ones first: those that start no server."""
    items.sort(key=lambda item: item.get_closest_marker("engine") is not None)
