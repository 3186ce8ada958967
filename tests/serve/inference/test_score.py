"""What vLLM serves is what was exported: the same log-probabilities, for every family and shape."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from secateur.client import CallFailed, Client
from secateur.vllm_plugin.plugin import register_config


@pytest.mark.parametrize("model", ["stock", "llama", "mistral", "qwen2", "qwen3"])
@torch.no_grad()
def test_served_logprobs_are_those_of_transformers(
    client: Client, folders: dict[str, Path], model: str
) -> None:
    register_config()
    from secateur.checkpoint.modeling_secateur import SecateurForCausalLM

    cls = AutoModelForCausalLM if model == "stock" else SecateurForCausalLM
    reference = cls.from_pretrained(folders[model], dtype=torch.float32).eval()
    score = client.score(model, "It was a bright cold day in April, and " * 6)
    token_ids, logprobs = score.token_ids, score.logprobs
    assert len(logprobs) == len(token_ids) - 1 > 60
    ids = torch.tensor([token_ids])
    expected = reference(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    assert expected.std() > 0.3  # a model that says the same everywhere would prove nothing
    torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-3, rtol=0)


def test_score_of_tokens_is_score_of_text(client: Client) -> None:
    score = client.score("llama", "a bright cold day")
    assert client.score("llama", score.token_ids) == score


def test_several_texts_are_scored_at_once(client: Client) -> None:
    texts: list[str | list[int]] = ["a bright cold day", [5, 6, 7], "in April " * 9]
    before = client.models.get("llama").counters
    scores = client.score_all("llama", texts)
    after = client.models.get("llama").counters
    assert scores == [client.score("llama", text) for text in texts]
    for score in scores:
        assert len(score.logprobs) == len(score.token_ids) - 1
        mean = sum(score.logprobs) / len(score.logprobs)
        assert score.perplexity == pytest.approx(math.exp(-mean), rel=1e-5)
    assert after.prompt_tokens - before.prompt_tokens == sum(len(score.token_ids) for score in scores)
    assert after.finished_requests - before.finished_requests == 1


def test_one_bad_text_is_named(client: Client) -> None:
    with pytest.raises(CallFailed, match=r"INVALID_ARGUMENT: inputs\[1\]\.token_ids: got 300"):
        client.score_all("llama", ["fine", [5, 300]])
    for texts in ([], ["x"] * 129):
        with pytest.raises(CallFailed, match=rf"inputs: got {len(texts)}, allowed is 1 to 128"):
            client.score_all("llama", texts)


@pytest.mark.parametrize("text", ["", [5], [5] * 512, [5, 300]])
def test_what_cannot_be_scored_is_refused(client: Client, text: str | list[int]) -> None:
    with pytest.raises(CallFailed, match=r"INVALID_ARGUMENT: inputs\[0\]\.(text|token_ids): got"):
        client.score("llama", text)
