"""Prompts that no model can run: refused before they reach a scheduler.

SGLang looks a token up in the embedding as it is. An id that is out of range there, or no id at
all, is an error in the middle of a step, which ends the server with every call on it.
"""

from __future__ import annotations

from collections.abc import Sequence

FIELD = "input_ids (the prompt's token ids)"


def check_token_ids(ids: Sequence[int], size: int | None, *, continues: bool = False) -> None:
    """Raise ValueError unless *ids* are of a vocabulary of *size*, and there is one at least.

    Without *size* an id has no upper bound. A prompt that *continues* a session may be empty.
    Costs two passes in C: tens of microseconds for a thousand tokens.
    """
    if len(ids) == 0:
        if continues:
            return
        raise ValueError(f"{FIELD}: there is none; a prompt has at least one token")
    try:
        least, most = min(ids), max(ids)
        refused = least if least < 0 else most if size is not None and most >= size else None
    except TypeError as error:
        raise ValueError(f"{FIELD}: must be whole numbers") from error
    if refused is not None:
        valid = "begins at 0" if size is None else f"is 0 to {size - 1}"
        raise ValueError(f"{FIELD}: {refused} is not in the model's vocabulary, which {valid}")
