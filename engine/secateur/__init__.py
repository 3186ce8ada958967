"""Secateur: find the best smaller shape of a language model, cut it, serve it.

Importing this package is light on purpose: torch, vllm, grpc and triton are imported by the
modules that use them, never from here.
"""

__version__ = "0.1.0"
