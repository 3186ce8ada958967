"""Clients of a running `secateur serve`. Imports neither torch nor vLLM."""

from secateur.client.client import Client, Completion, Event, Prompt
from secateur.client.connection import CallFailed

__all__ = ["CallFailed", "Client", "Completion", "Event", "Prompt"]
