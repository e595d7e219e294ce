"""``python -m autellix_sgl.launch_server [SGLang flags]``: SGLang's server, scheduling programs.

Takes every flag of ``sglang.launch_server`` and serves the same APIs. Without ``--model-path`` it
serves the default model; without a GPU it adds the flags that SGLang's CPU engine needs.

Each process that the server spawns imports this module again (as ``__mp_main__``): the import of
`autellix_sgl.runtime` below is what prepares it, and everything slow is imported in functions.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import autellix_sgl.runtime  # noqa: F401 (its import prepares this process and its children)
from autellix_sgl.config import (
    ProgramArgs,
    add_placement_choices,
    add_program_arguments,
    take_placement,
)
from autellix_sgl.errors import ActivationError, AutellixError, ConfigError
from autellix_sgl.runtime.http.tenants import Tenants
from autellix_sgl.runtime.launch.platform import uses_cpu_engine
from autellix_sgl.runtime.tokenizer.shares import Shares
from autellix_sgl.server_defaults import flag_value, server_defaults

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = "30000"

_EXAMPLES = """\
examples:
  python -m autellix_sgl.launch_server                                 the default model
  python -m autellix_sgl.launch_server --model-path Qwen/Qwen3-8B --tp-size 2
  python -m autellix_sgl.launch_server --config server.yaml --port 8000

SGLang's flags are listed above, with SGLang's own help.
"""


def build_argument_parser() -> argparse.ArgumentParser:
    """SGLang's parser, with our group of flags first."""
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(
        prog="python -m autellix_sgl.launch_server",
        description="SGLang's server, scheduling agent programs. All SGLang flags work unchanged.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--program-... flags] [SGLang flags]",
    )
    add_program_arguments(parser)
    ServerArgs.add_cli_args(parser)
    add_placement_choices(parser)
    return parser


def parse_program_args(argv: Sequence[str]) -> tuple[ProgramArgs, list[str]]:
    """Our flags as a record, and the rest of *argv*, which is SGLang's."""
    parser = argparse.ArgumentParser(
        prog="python -m autellix_sgl.launch_server", add_help=False, allow_abbrev=False
    )
    add_program_arguments(parser)
    namespace, rest = parser.parse_known_args(argv)
    placement, rest = take_placement(rest)
    args = ProgramArgs.from_namespace(namespace, placement=placement)
    # A bad file is found now, not in one of the server's processes.
    args.initial_cost_model()
    if args.tenants is not None:
        Tenants.load(Path(args.tenants))
    if args.shares is not None:
        Shares.load(Path(args.shares))
    return args, rest


def parse_server_args(argv: Sequence[str]) -> ServerArgs:
    """SGLang's configuration: the user's flags, ours where they leave a gap."""
    from sglang.srt.server_args import prepare_server_args

    return prepare_server_args([*server_defaults(argv), *argv])


def _with_config_file(argv: Sequence[str]) -> list[str]:
    """The flags with those of a ``--config`` file put in front, by SGLang's own rules."""
    words = [part for word in argv for part in _split_config_flag(word)]
    if "--config" not in words:
        return words
    from sglang.srt.utils.server_args_config_parser import ConfigArgumentMerger

    try:
        merged: list[str] = ConfigArgumentMerger(build_argument_parser()).merge_config_with_args(
            words
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return merged


def _split_config_flag(word: str) -> list[str]:
    """``--config=FILE`` as two words: SGLang looks for the flag alone and ignores this form."""
    return word.split("=", 1) if word.startswith("--config=") else [word]


def check_address(host: str, port: int) -> None:
    """Raise ConfigError unless a server can listen there; a start fails at once, not at its end."""
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(_address_problem(host, port, error)) from error


def _address_problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop what listens there or pass --port"
    return f"cannot listen on port {port} of {host}: {error.strerror or error}"


def check_address_of(argv: Sequence[str]) -> None:
    """`check_address` for the address on the command line, before any slow import.

    What is wrong with a flag's value is left to the real parser, and so is a config file.
    """
    host = flag_value(argv, "--host") or DEFAULT_HOST
    port = flag_value(argv, "--port") or DEFAULT_PORT
    if port.isdecimal() and flag_value(argv, "--config") is None:
        check_address(host, int(port))


def announce(server_args: ServerArgs, *, tenants: bool) -> None:
    """Print, once the server answers, a command that shows it."""
    request = {
        "model": server_args.served_model_name or server_args.model_path,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
    wanted = "a tenant's key" if tenants else "your --api-key" if server_args.api_key else None
    key = f' -H "Authorization: Bearer <{wanted}>"' if wanted else ""
    sys.stdout.write(
        f"\nautellix_sgl is ready at {server_args.url()}. Try:\n"
        f"curl {server_args.url()}/v1/chat/completions -H 'Content-Type: application/json'{key} "
        f"-d '{json.dumps(request)}'\n\n"
    )
    sys.stdout.flush()


def serve(argv: Sequence[str]) -> None:
    """Run the server until it is stopped; blocks."""
    program_args, sglang_argv = parse_program_args(_with_config_file(argv))
    check_address_of(sglang_argv)
    from sglang.srt.plugins import load_plugins
    from sglang.srt.utils import kill_process_tree
    from sglang.srt.utils.common import suppress_noisy_warnings

    from autellix_sgl.runtime import cpu
    from autellix_sgl.runtime.cpu import threads
    from autellix_sgl.runtime.launch.server import launch

    suppress_noisy_warnings()
    load_plugins()
    if uses_cpu_engine():
        cpu.install()  # before the flags are read: it adds a choice to one of them
    server_args = parse_server_args([*program_args.server_flags(), *sglang_argv])
    if uses_cpu_engine():
        threads.share(server_args.dp_size * server_args.tp_size)
    check_address(server_args.host, server_args.port)
    on_ready = partial(announce, server_args, tenants=program_args.tenants is not None)
    try:
        launch(server_args, program_args, on_ready=on_ready)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status, with one line on stderr for a mistake of the user's."""
    if any(word in ("-h", "--help") for word in argv):
        build_argument_parser().print_help()
        return 0
    try:
        with contextlib.suppress(KeyboardInterrupt):
            serve(argv)
    except (AutellixError, ActivationError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
