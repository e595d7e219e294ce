"""The KV of programs between their calls: who may run, what is kept."""
