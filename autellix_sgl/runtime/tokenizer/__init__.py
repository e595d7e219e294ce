"""The main process: calls are stamped, placed, sent, and charged when they end."""
