"""Which program, and which thread of it, does a request belong to?

sources   the table: every field that can name a program, in order of precedence
extract   from headers and body to the values of the table's fields
reader    the first row that applies
values    the identity that comes out, and what an id may be
"""

from autellix_sgl.runtime.identity.reader import IdentityReader, identity_of_program
from autellix_sgl.runtime.identity.values import ANONYMOUS, Identity, check_id

__all__ = ["ANONYMOUS", "Identity", "IdentityReader", "check_id", "identity_of_program"]
