"""The CPU fast path: an attention backend for SGLang and what else makes a step cheap on a CPU.

    install.py     registers the backend with SGLang, and what upstream must know of it
    attention.py   the AttentionBackend: a step's metadata in, kernels out
    rehearsal.py   a few tokens through each model at the start: do the kernels serve it?
    fused.py       fused norm, rope, SwiGLU and small matrix products, put on one model's modules
    threads.py     keeps a rank on the cores it was given
    build.py       compiles kernels/ once a machine, and loads them
    fallback.py    the same operations in batched torch, for a machine without a compiler
    kernels/       C++, ATen's vectors and threads

Importing this package does nothing; ``install()`` acts, in the main process and in each scheduler
process. Nothing here runs where the device is not a CPU.
"""

from __future__ import annotations

from autellix_sgl.runtime.cpu.install import BACKEND_NAME, install

__all__ = ["BACKEND_NAME", "install"]
