"""The server a newcomer gets: no flags but the port, a real model, the fitted cost model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tokenizers import Tokenizer

from autellix_sgl.default_model import SERVED_NAME
from tests.engine.harness import Server, running_server

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("default"), [], cost=None) as running:
        yield running


def test_a_chat_about_france_says_paris(server: Server) -> None:
    """Through the OpenAI client, as the README's first example does."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    answer = client.chat.completions.create(
        model=SERVED_NAME,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=32,
    )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_service_is_charged_by_a_model_fitted_at_the_start(server: Server) -> None:
    """The coefficients are measured, and tokens and steps both cost something."""
    model = server.state()["cost_model"]
    print(model)
    assert model["error"] is not None
    assert model["per_prefill_token_ms"] > 0
    assert model["base_ms"] + model["per_decode_call_ms"] > 0


def test_computed_tokens_are_charged_and_cached_ones_are_not(server: Server) -> None:
    """The same long prompt again costs a small part of what it cost the first time."""
    body = {
        "text": "Agents call a model tens to hundreds of times. " * 60,
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
    }
    cold = server.generate(body)["meta_info"]["program"]
    warm = server.generate(body)["meta_info"]["program"]
    assert warm["cached_tokens"] > 500
    assert warm["service_ms"] < cold["service_ms"] / 2


def test_the_weights_are_converted_by_the_transformers_that_are_installed(tmp_path: Path) -> None:
    """Anew, whatever an earlier version has left: plain weights, and numbers read by digits."""
    subprocess.run(
        [sys.executable, "-m", "autellix_sgl.default_model"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
    )
    [config] = tmp_path.glob("*/*/config.json")
    assert "quantization_config" not in json.loads(config.read_text())
    tokenizer = Tokenizer.from_file(str(config.with_name("tokenizer.json")))
    assert tokenizer.encode("1234").tokens == ["1", "2", "3", "4"]
