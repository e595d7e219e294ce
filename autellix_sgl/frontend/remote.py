"""Tells servers that a program is over. Only the standard library: agents need no more."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

logger = logging.getLogger(__name__)

TIMEOUT_S = 5.0

ENDPOINTS = (
    "/generate",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
)
CREDENTIALS = ("authorization", "x-api-key")


def server_behind(url: str) -> str | None:
    """The address of the server that a generation request to *url* goes to, None for others."""
    address = url.partition("?")[0]
    return next((address.removesuffix(e) for e in ENDPOINTS if address.endswith(e)), None)


@dataclass(frozen=True)
class Server:
    """A server's address, without ``/v1``, and the headers that let one in."""

    url: str
    credentials: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, base_url: str, api_key: str | None) -> Server:
        """The server that a client's ``base_url`` means, with ``/v1`` at its end or without."""
        url = base_url.rstrip("/").removesuffix("/v1")
        return cls(url, {} if api_key is None else {"authorization": f"Bearer {api_key}"})

    @classmethod
    def behind(cls, url: str, headers: Mapping[str, str]) -> Server | None:
        """The server that a request to *url* went to, None if it was not for a generation."""
        address = server_behind(url)
        if address is None:
            return None
        return cls(address, {name: headers[name] for name in CREDENTIALS if name in headers})

    def state(self, program: str) -> dict[str, Any] | None:
        """The program's row of the server's table, None if there is none or no answer."""
        answer = self._request("GET", program)
        return None if answer is None else dict(json.loads(answer))

    def abort(self, program: str) -> None:
        """Abort the program's calls; what goes wrong is logged."""
        self._request("POST", program, "/abort")

    def end(self, program: str) -> None:
        """End the program; what goes wrong is logged, and its lease will end it."""
        self._request("DELETE", program)

    def _request(self, method: str, program: str, action: str = "") -> bytes | None:
        url = f"{self.url}/v1/programs/{urllib.parse.quote(program, safe='')}{action}"
        request = urllib.request.Request(url, method=method, headers=dict(self.credentials))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None  # it has made no call, or is forgotten already
            problem: Exception = error
        except OSError as error:
            problem = error
        logger.warning("%s %s: %s", method, url, problem)
        return None
