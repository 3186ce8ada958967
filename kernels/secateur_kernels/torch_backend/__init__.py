"""The same functions in torch, for a CPU and as the fallback anywhere."""
