"""Serving: vLLM engines behind gRPC services, and the client that talks to them."""
