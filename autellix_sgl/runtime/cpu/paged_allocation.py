"""Page allocation without Triton: where the KV of new tokens goes, in plain tensor operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sglang.srt.mem_cache.allocator.paged import alloc_extend_naive


class Launchable:
    """A function called as a Triton kernel is, ``kernel[grid](...)``; the grid means nothing."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __getitem__(self, _grid: object) -> Callable[..., None]:
        return self._function


def alloc_extend(
    prefix_lens: torch.Tensor,
    seq_lens: torch.Tensor,
    last_loc: torch.Tensor,
    free_pages: torch.Tensor,
    out_indices: torch.Tensor,
    _bs_upper: int,
    page_size: int,
) -> None:
    """Fill *out_indices* [extended tokens] with slots: the rest of each last page, then new pages.

    Like the kernel it stands for it leaves the result undefined when the free pages do not
    suffice; the caller finds that out from the page count and gives the result up.
    """
    if free_pages.numel() == 0:
        needs_pages = torch.div(seq_lens - 1, page_size, rounding_mode="floor") > torch.div(
            prefix_lens - 1, page_size, rounding_mode="floor"
        )
        if bool(needs_pages.any()):
            return
    alloc_extend_naive(
        prefix_lens, seq_lens, last_loc, free_pages, out_indices, page_size, out_indices.device
    )


def alloc_decode(
    seq_lens: torch.Tensor,
    last_loc: torch.Tensor,
    free_pages: torch.Tensor,
    out_indices: torch.Tensor,
    _bs_upper: int,
    page_size: int,
) -> None:
    """Fill *out_indices* [batch] with the slot of each request's one new token.

    ``seq_lens`` counts the new token. It goes behind the last one, or first into a new page.
    """
    starts_page = (seq_lens - 1) % page_size == 0
    needed = int(starts_page.sum())
    if needed > free_pages.numel():
        return
    out_indices.copy_(last_loc + 1)
    out_indices[starts_page] = free_pages[:needed] * page_size


KERNELS = {
    "alloc_extend_kernel": Launchable(alloc_extend),
    "alloc_decode_kernel": Launchable(alloc_decode),
}
