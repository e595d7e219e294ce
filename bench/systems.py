"""The systems that can be compared: a name to an engine and its flags."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from autellix_sgl.errors import ConfigError
from bench.engines import Engine, SGLang, stock_flags
from bench.peers import ThunderAgent, Vllm

STOCK = "sglang-fcfs"


@dataclass(frozen=True, slots=True)
class System:
    """``flags`` come after all others on the server's command line, so they win."""

    name: str
    about: str
    engine: Engine
    flags: tuple[str, ...] = ()


def _stock(policy: str, about: str) -> System:
    return System(f"sglang-{policy}", about, SGLang(programs=False), stock_flags(policy))


def _ours(policy: str, about: str) -> System:
    flags = ("--program-policy", policy)
    return System(f"autellix-{policy}", about, SGLang(programs=policy != "none"), flags)


def _placed(method: str, about: str) -> System:
    flags = ("--program-policy", "atlas", "--load-balance-method", method)
    return System(f"dp-{method}", about, SGLang(programs=True), flags)


# lpm and hrrn are upstream's names; both need the radix cache (on by default) and fall back to
# arrival order while more than 128 calls wait.
SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        _stock("fcfs", "SGLang's own scheduler, arrival order (its default)"),
        _stock("lpm", "SGLang's own scheduler, longest cached prefix first"),
        _stock("hrrn", "SGLang's own scheduler, highest response ratio next"),
        _ours("none", "this server with program scheduling off: the same as sglang-fcfs"),
        _ours("fcfs", "this server, one level in arrival order"),
        _ours("mlfq", "this server, levels by each call's own service"),
        _ours("plas", "this server, levels by the program's total service"),
        _ours("atlas", "this server, levels by the program's longest chain of service"),
        _ours("gittins", "this server, by the likely end of the program, learned per kind"),
        # These want replicas: `-- --dp-size N`.
        _placed("round_robin", "autellix-atlas, each call to the next replica, by SGLang"),
        _placed("total_requests", "autellix-atlas, to the replica with the fewest, by SGLang"),
        _placed("program", "autellix-atlas, long calls to their program's replica (the paper)"),
        _placed("program-radix", "autellix-atlas, to where it costs all calls the least time"),
        System("vllm-cpu", "vLLM for CPUs, prefix caching and chunked prefill on", Vllm()),
        System("thunderagent", "ThunderAgent's proxy in front of sglang-fcfs", ThunderAgent()),
    )
}


def system_named(name: str) -> System:
    """The system of that name; raises ConfigError that lists the known ones."""
    try:
        return SYSTEMS[name]
    except KeyError:
        known = ", ".join(SYSTEMS)
        raise ConfigError(f"--systems: unknown system {name!r} (known: {known})") from None


def variant(text: str) -> System:
    """A system under another name with more flags, from ``NAME=SYSTEM:FLAGS``."""
    name, named, rest = text.partition("=")
    base, colon, flags = rest.partition(":")
    if not (name and named and base and colon and flags.strip()):
        raise ConfigError(
            f"--variant {text!r}: expected NAME=SYSTEM:FLAGS, for example "
            "'quick=autellix-atlas:--program-first-quantum-ms 100'"
        )
    if name in SYSTEMS or "/" in name:
        raise ConfigError(f"--variant {text!r}: {name!r} cannot be a name of your own")
    system = system_named(base)
    more = tuple(shlex.split(flags))
    about = f"{base} with {flags.strip()}"
    return replace(system, name=name, about=about, flags=(*system.flags, *more))


def chosen(names: str, variants: Sequence[str]) -> list[System]:
    """The systems of ``--systems`` (comma-separated) and the ``--variant``s, in that order."""
    own = [variant(text) for text in variants]
    systems = [*(system_named(name) for name in names.split(",") if name), *own]
    _refuse_twice(system.name for system in systems)
    if not systems:
        raise ConfigError("--systems: name at least one")
    return systems


def _refuse_twice(names: Iterable[str]) -> None:
    seen: list[str] = []
    for name in names:
        if name in seen:
            raise ConfigError(f"--systems, --variant: {name!r} is named twice")
        seen.append(name)


def table() -> str:
    """One line a system, for a command's help."""
    width = max(map(len, SYSTEMS))
    return "\n".join(f"  {s.name:{width}}  {s.about}" for s in SYSTEMS.values())
