"""Measuring how long vLLM decodes, by sub-block and width, for budgets on latency."""
