"""Latency benchmarks that a server runs on itself."""
