"""Measurements on real engines; each module is a command."""
