"""Kernels against what others do, and against what the machine allows: `python -m benchmarks.kernels`."""
