"""Keep a rank on its own cores.

``SGLANG_CPU_OMP_THREADS_BIND`` ("0-3|4-7": cores a rank, ranks separated by bars) is SGLang's way
to share a machine between tensor- and data-parallel ranks. Upstream acts on it only with AMX;
without, every rank would run as many threads as the machine has cores, all on the same cores.
"""

from __future__ import annotations

import os

import torch

BIND_VARIABLE = "SGLANG_CPU_OMP_THREADS_BIND"


def share(ranks: int) -> None:
    """Give each of *ranks* processes started from here cores of its own, unless the user has.

    Upstream refuses more ranks than there are NUMA nodes otherwise. With more ranks than cores,
    some have one in common.
    """
    if ranks == 1 or BIND_VARIABLE in os.environ:
        return
    cores = sorted(os.sched_getaffinity(0))
    parts = [
        cores[rank * len(cores) // ranks : (rank + 1) * len(cores) // ranks]
        or [cores[rank % len(cores)]]
        for rank in range(ranks)
    ]
    os.environ[BIND_VARIABLE] = "|".join(",".join(map(str, part)) for part in parts)


def bind(rank: int) -> list[int] | None:
    """Move this process to *rank*'s cores, with a thread for each; its cores, or None if unbound.

    To be called before the kernels' threads start. Raises ValueError if the variable has no entry
    for the rank or cannot be read.
    """
    binding = os.environ.get(BIND_VARIABLE, "all")
    if binding == "all":
        return None
    ranks = binding.split("|")
    if rank >= len(ranks):
        raise ValueError(f"{BIND_VARIABLE}={binding} has no cores for rank {rank}")
    cores = parse_cores(ranks[rank])
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)
    torch.set_num_threads(len(cores))
    return cores


def parse_cores(text: str) -> list[int]:
    """The cores of a list such as ``0-3,6``."""
    cores: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        cores.extend(range(int(first), int(last or first) + 1))
    return cores
