"""What agent code imports: programs by a ``with`` block, carried by the clients it has anyway.

    place             which program and thread is this code running in?
    programs          the block
    hooks, clients, requests_session      headers on the requests of clients
    remote            tells servers that a program is over
    sglang_lang       the backend for SGLang's language; the one file that imports sglang

Nothing outside of the standard library is imported before it is asked for.
"""

from autellix_sgl.frontend.clients import wrap
from autellix_sgl.frontend.place import Executor, Place, carry, current
from autellix_sgl.frontend.programs import Program, Thread

__all__ = ["Executor", "Place", "Program", "Thread", "carry", "current", "program", "wrap"]

program = Program
"""``with program("name") as p:`` reads better than the class's name."""
