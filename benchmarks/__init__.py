"""Benchmarks: scripts that measure and write `results/`. Run from the root: `python -m benchmarks.NAME`."""
