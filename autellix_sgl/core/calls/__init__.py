"""One call: its stamp, cost, level, place in the queue and waits."""
