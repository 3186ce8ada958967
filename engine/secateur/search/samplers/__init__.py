"""Samplers: ways to choose which architectures to evaluate next, by name."""
