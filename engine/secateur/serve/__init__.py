"""Serving: vLLM engines behind gRPC services."""
