from __future__ import annotations

from typing import Any

import pytest
import zmq

from autellix_sgl.runtime.cpu.controller import sock_recv


@pytest.fixture
def pair() -> Any:
    """Two connected sockets, as between the tokenizer manager and the controller."""
    context = zmq.Context()
    receiving, sending = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    receiving.bind("inproc://controller")
    sending.connect("inproc://controller")
    yield receiving, sending
    context.destroy(linger=0)


def receive(socket: Any, flags: int) -> Any:
    """What SGLang's own function does with the bytes does not matter here."""
    return socket.recv(flags=flags)


def test_a_message_that_is_there_comes_at_once(pair: Any) -> None:
    """Waiting is only for those that are not."""
    receiving, sending = pair
    sending.send(b"first")
    assert sock_recv(receive, receiving, zmq.NOBLOCK) == b"first"
    sending.send(b"second")
    assert sock_recv(receive, receiving) == b"second"


def test_without_a_message_it_gives_up_after_a_moment(pair: Any) -> None:
    """As the caller expects, which then feeds its watchdog and asks again."""
    receiving, _ = pair
    with pytest.raises(zmq.Again):
        sock_recv(receive, receiving, zmq.NOBLOCK)
