"""Tokenize and Detokenize."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from secateur.client import AsyncClient, CallFailed, Client
from secateur.serve.process import ServerProcess


def test_there_and_back(client: Client, folders: dict[str, Path]) -> None:
    text = "It was a bright cold day in April – 13 o'clock."
    token_ids = client.tokenize("llama", text)
    tokenizer = AutoTokenizer.from_pretrained(folders["llama"])
    assert token_ids == tokenizer(text)["input_ids"]
    assert client.detokenize("llama", token_ids) == tokenizer.decode(token_ids)
    assert client.detokenize("llama", token_ids, skip_special_tokens=True) == tokenizer.decode(
        token_ids, skip_special_tokens=True
    )
    assert client.detokenize("llama", []) == ""


async def test_the_asynchronous_client_does_the_same(server: ServerProcess, client: Client) -> None:
    async with AsyncClient(server.address, timeout=60) as later:
        token_ids = await later.tokenize("llama", "a bright cold day")
        assert token_ids == client.tokenize("llama", "a bright cold day")
        assert await later.detokenize("llama", token_ids) == client.detokenize("llama", token_ids)
        assert await later.score("llama", "a bright cold day") == client.score("llama", "a bright cold day")


def test_what_is_no_token_is_refused(client: Client) -> None:
    with pytest.raises(CallFailed, match="INVALID_ARGUMENT: token_ids: got 300, ids go from 0 to"):
        client.detokenize("llama", [5, 300])
