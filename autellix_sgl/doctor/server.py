"""What schedules in a running server, replica by replica and process by process."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

TIMEOUT_S = 30.0

# Every scheduler process of ours has this one; the others depend on the machine.
ESSENTIAL_PATCH = "scheduler_class"


class Unreachable(Exception):
    """There is nothing to judge: no server, no permission, or an answer that is not JSON."""


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What a server said. ``replicas`` holds each replica's program state, without its samples."""

    url: str
    sglang: str
    replicas: list[dict[str, Any]]
    programs: dict[str, Any] | None
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def examine_server(url: str, api_key: str | None = None) -> ServerReport:
    """Ask the server at *url*; raises Unreachable."""
    url = _normalised(url)
    info = _get(url, "/server_info", api_key)
    states = info.get("internal_states")
    if not isinstance(states, list):
        raise Unreachable(f"{url} answers, but not as an SGLang server: no internal_states")
    programs = [state.get("program") for state in states if isinstance(state, dict)]
    replicas = [_without_samples(program) for program in programs if isinstance(program, dict)]
    problems = list(_problems_of(replicas, num_states=len(states), tp_size=info.get("tp_size")))
    problems += _problems_of_count(len(states), dp_size=info.get("dp_size"))
    return ServerReport(
        url=url,
        sglang=str(info.get("version", "unknown")),
        replicas=replicas,
        programs=_get(url, "/v1/programs?limit=1", api_key).get("statistics") if replicas else None,
        problems=problems,
    )


def _without_samples(program: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in program.items() if name != "samples"}


def _problems_of(
    replicas: Sequence[Mapping[str, Any]], *, num_states: int, tp_size: object
) -> Iterator[str]:
    if not replicas:
        yield "program scheduling is not in effect: this is SGLang's own scheduler"
        return
    if len(replicas) < num_states:
        yield f"program scheduling is in effect in {len(replicas)} of {num_states} replicas only"
    for number, replica in enumerate(replicas):
        for problem in _problems_of_ranks(processes_of(replica), tp_size):
            yield f"{replica_name(replica, number)}: {problem}"
        if len(set(replica.get("digests") or ())) > 1:
            yield f"{replica_name(replica, number)}: its ranks have decided differently"


def _problems_of_count(num_states: int, *, dp_size: object) -> Iterator[str]:
    if isinstance(dp_size, int) and num_states < dp_size:
        yield f"{num_states} of {dp_size} replicas are left; start the server again to have all"


def _problems_of_ranks(processes: Sequence[Mapping[str, Any]], tp_size: object) -> Iterator[str]:
    if isinstance(tp_size, int) and len(processes) != tp_size:
        yield f"{len(processes)} of {tp_size} ranks report themselves"
    for process in processes:
        if ESSENTIAL_PATCH not in process.get("patches", ()):
            yield f"patch {ESSENTIAL_PATCH} is not in effect in {process_name(process)}"
    if (
        len({(p.get("sglang"), *p.get("patches", ()), *p.get("accepted", ())) for p in processes})
        > 1
    ):
        yield "its ranks differ in SGLang's version, in patches or in changes accepted"


def processes_of(replica: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each of a replica's processes says of itself, as far as it can be read."""
    listed = replica.get("processes")
    return [p for p in listed if isinstance(p, dict)] if isinstance(listed, list) else []


def replica_name(replica: Mapping[str, Any], position: int) -> str:
    """By its own number if it says one: replicas answer in any order."""
    return f"Replica {replica.get('replica', position)}"


def process_name(process: Mapping[str, Any]) -> str:
    """What a process is and its number."""
    return f"{process.get('role', 'process')} {process.get('pid', '?')}"


def _normalised(url: str) -> str:
    """*url* with a scheme and without a slash at its end; raises Unreachable if it is none."""
    url = url if "://" in url else f"http://{url}"
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Unreachable(f"{url} is not an address of an HTTP server")
    return url.rstrip("/")


def _get(url: str, path: str, api_key: str | None) -> dict[str, Any]:
    """The JSON object at *path*; raises Unreachable that says in one line why there is none."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    request = urllib.request.Request(url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer = json.loads(response.read())
    except urllib.error.HTTPError as error:
        raise Unreachable(_explain_status(url, path, error.code)) from error
    except urllib.error.URLError as error:
        raise Unreachable(f"no answer from {url}: {_explain(error.reason)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no answer from {url}: {_explain(error)}") from error
    except ValueError as error:
        raise Unreachable(f"{url}{path} answers no JSON: is it an SGLang server?") from error
    if not isinstance(answer, dict):
        raise Unreachable(f"{url}{path} answers something else than a JSON object")
    return answer


def _explain_status(url: str, path: str, status: int) -> str:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"{url} wants another API key (HTTP {status}): pass --api-key"
    return f"{url}{path} answers HTTP {status}: is it an SGLang server?"


def _explain(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"nothing within {TIMEOUT_S:g} s"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__
