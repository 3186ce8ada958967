"""Clients of a running `secateur serve`. Imports neither torch nor vLLM."""

from secateur.client.async_client import AsyncClient
from secateur.client.client import Client
from secateur.client.failures import CallFailed
from secateur.client.inference import Completion, GenerationResult, PromptInput, ScoreResult, StreamEvent
from secateur.client.retries import RetryPolicy

__all__ = [
    "GenerationResult",
    "AsyncClient",
    "CallFailed",
    "Client",
    "Completion",
    "StreamEvent",
    "PromptInput",
    "RetryPolicy",
    "ScoreResult",
]
