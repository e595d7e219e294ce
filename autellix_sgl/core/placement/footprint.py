"""Where a program's KV is, and what its calls turn out to be: what placement knows of a program.

Only counts are kept, no tokens: a program's next prompt repeats what it has said so far, so the
longest context that a replica has run for it bounds what the replica's cache can hold of a prompt.
Searches over trees repeat less than that, and caches evict; how much of the bound is found is
learned from the calls that end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Earlier experience counts this much beside the next call's: what a cache holds changes with load.
DECAY = 0.8
# Tokens of the bound that are taken as found before anything is known.
TRUSTED_TOKENS = 512


@dataclass(slots=True)
class Footprint:
    """One program's. ``tokens``: by replica, the longest context run there, prompt and output.

    ``home`` is the replica that Algorithm 2 of the paper keeps the program at. ``bound_tokens`` and
    ``found_tokens`` sum, with decay, the prompt tokens that could have been cached and those that
    were; ``calls`` and ``output_tokens`` count the calls that ended and what they generated.
    """

    home: int | None = None
    tokens: dict[int, int] = field(default_factory=dict)
    bound_tokens: float = 0.0
    found_tokens: float = 0.0
    calls: int = 0
    output_tokens: int = 0

    def bound(self, replica: int, prompt_tokens: int) -> int:
        """The most tokens of such a prompt that *replica* can have cached for this program."""
        return min(prompt_tokens, self.tokens.get(replica, 0))

    @property
    def found_share(self) -> float:
        """The share of the bound that is expected to be found, 0 to 1."""
        return (self.found_tokens + TRUSTED_TOKENS) / (self.bound_tokens + TRUSTED_TOKENS)

    def placed(self, replica: int, prompt_tokens: int) -> None:
        """A call goes there: its siblings that come next will find its prompt."""
        self.tokens[replica] = max(self.tokens.get(replica, 0), prompt_tokens)

    def ended(
        self,
        replica: int,
        *,
        bound: int,
        cached_tokens: int,
        prompt_tokens: int,
        output_tokens: int,
    ) -> None:
        """A call ended there: it found *cached_tokens* of its prompt, *bound* were possible."""
        self.tokens[replica] = max(self.tokens.get(replica, 0), prompt_tokens + output_tokens)
        self.calls += 1
        self.output_tokens += output_tokens
        if bound:
            self.bound_tokens = DECAY * self.bound_tokens + bound
            self.found_tokens = DECAY * self.found_tokens + min(bound, cached_tokens)
