"""On which replica a call goes."""
