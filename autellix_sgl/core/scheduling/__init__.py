"""The multi-level scheduler of one batch."""
