"""A scheduler process, one a rank: SGLang's scheduler, taking its decisions from the core."""
