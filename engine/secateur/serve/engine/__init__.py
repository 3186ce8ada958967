"""The adapter to vLLM and what it needs around it."""
