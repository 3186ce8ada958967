"""Clients of a running `secateur serve`. Imports neither torch nor vLLM."""

from secateur.client.async_client import AsyncClient
from secateur.client.client import Client
from secateur.client.failures import CallFailed
from secateur.client.inference import Answer, Completion, Event, Prompt, Score
from secateur.client.retries import Retries

__all__ = [
    "Answer",
    "AsyncClient",
    "CallFailed",
    "Client",
    "Completion",
    "Event",
    "Prompt",
    "Retries",
    "Score",
]
