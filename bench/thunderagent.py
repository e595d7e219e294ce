"""Serve ThunderAgent's proxy with an SGLang server behind it, until killed.

    python -m bench.thunderagent --port P [proxy flags] -- [flags of autellix_sgl.launch_server]

Both stay in this process's session and write to its output: to whoever started it, and will end
its session, the two are one server.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

from bench.command import split_server_flags
from bench.servers import START_TIMEOUT_S, command, free_port


def answers(url: str) -> bool:
    """Whether the server at *url* is healthy."""
    try:
        urllib.request.urlopen(f"{url}/health", timeout=5).close()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """Start both; returns when either ends, or the server does not come up."""
    words, server_flags = split_server_flags(argv)
    parser = argparse.ArgumentParser(prog="python -m bench.thunderagent", description=__doc__)
    parser.add_argument("--port", required=True, help="Where the proxy listens.")
    args, proxy_flags = parser.parse_known_args(words)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(command("--port", str(port), *server_flags))
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(url):
        if server.poll() is not None or time.monotonic() > deadline:
            return 1
        time.sleep(0.5)
    proxy = subprocess.Popen(
        [
            *(sys.executable, "-m", "ThunderAgent", "--host", "127.0.0.1", "--port", args.port),
            *("--backends", url, "--backend-type", "sglang", "--metrics", *proxy_flags),
        ]
    )
    return proxy.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
