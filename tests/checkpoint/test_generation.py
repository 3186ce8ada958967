"""Every cache and decoding strategy of transformers gives what greedy decoding without a cache gives.

Key/value caches have a slot for every layer that has attention, and no other: an empty slot breaks what
counts tokens in it, cuts it (`crop`) or rolls it back (speculative decoding).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, StaticCache
from transformers.generation import ContinuousBatchingConfig

from secateur.checkpoint.modeling_secateur import SecateurForCausalLM
from tests.checkpoint.test_modeling_secateur import SHAPES, cut, dense_model, tokens

NEW_TOKENS = 7
GREEDY: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
Strategy = Callable[[SecateurForCausalLM, PreTrainedModel, torch.Tensor], torch.Tensor]


def prompt() -> torch.Tensor:
    """Tokens that repeat, for prompt lookup to find something."""
    return tokens(1, 6).repeat(1, 2)


def static(slim: SecateurForCausalLM) -> StaticCache:
    return StaticCache(config=slim.config, max_cache_len=32)


def cropped(slim: SecateurForCausalLM, ids: torch.Tensor) -> DynamicCache:
    """A cache that had three more tokens than `ids`, which were taken out of it."""
    cache = DynamicCache(config=slim.config)
    for layer in cache.layers:
        if layer.is_sliding:
            layer.activate_past_recording()
    slim(torch.cat([ids, tokens(1, 3)], dim=1), past_key_values=cache)
    cache.crop(-4)
    return cache


STRATEGIES: dict[str, Strategy] = {
    "dynamic": lambda slim, dense, ids: slim.generate(ids, **GREEDY),
    "dynamic, given": lambda slim, dense, ids: slim.generate(
        ids, past_key_values=DynamicCache(config=slim.config), **GREEDY
    ),
    "dynamic, without a config": lambda slim, dense, ids: slim.generate(
        ids, past_key_values=DynamicCache(), **GREEDY
    ),
    "static": lambda slim, dense, ids: slim.generate(
        ids, cache_implementation="static", disable_compile=True, **GREEDY
    ),
    "static, given": lambda slim, dense, ids: slim.generate(
        ids, past_key_values=static(slim), disable_compile=True, **GREEDY
    ),
    "prefill in chunks": lambda slim, dense, ids: slim.generate(ids, prefill_chunk_size=5, **GREEDY),
    "prompt lookup": lambda slim, dense, ids: slim.generate(ids, prompt_lookup_num_tokens=3, **GREEDY),
    "assisted by the dense model": lambda slim, dense, ids: slim.generate(
        ids, assistant_model=dense, **GREEDY
    ),
    "assisted by itself": lambda slim, dense, ids: slim.generate(ids, assistant_model=slim, **GREEDY),
}


FAMILIES = ("llama", "mistral", "qwen2-sliding", "qwen3")
REMOVED = ("mixed", "first-attention-removed", "inner-layer-removed", "second-half-attends")


FAST = ("llama-mixed", "qwen2-sliding-first-attention-removed", "qwen3-inner-layer-removed")


def pairs() -> list[Any]:
    """Every family with every shape; `make test` has the hardest."""
    return [
        pytest.param(
            (family, shape),
            id=f"{family}-{shape}",
            marks=() if f"{family}-{shape}" in FAST else pytest.mark.slow,
        )
        for family in FAMILIES
        for shape in REMOVED
    ]


@pytest.fixture(scope="module", params=pairs())
def models(request: pytest.FixtureRequest) -> tuple[SecateurForCausalLM, PreTrainedModel]:
    family, shape = request.param
    dense = dense_model(family)
    return cut(dense, *SHAPES[shape]), dense


@torch.no_grad()
def test_every_strategy_equals_greedy(models: tuple[SecateurForCausalLM, PreTrainedModel]) -> None:
    slim, dense = models
    expected = slim.generate(prompt(), use_cache=False, **GREEDY)
    found = {name: strategy(slim, dense, prompt()) for name, strategy in STRATEGIES.items()}
    assert {name: ids.tolist() for name, ids in found.items()} == dict.fromkeys(STRATEGIES, expected.tolist())


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_static_cache_with_every_mask(
    models: tuple[SecateurForCausalLM, PreTrainedModel], attention: str
) -> None:
    slim, _ = models
    slim.set_attn_implementation(attention)
    expected = slim.generate(prompt(), use_cache=False, **GREEDY)
    found = slim.generate(prompt(), cache_implementation="static", disable_compile=True, **GREEDY)
    slim.set_attn_implementation("sdpa")
    assert found.tolist() == expected.tolist()


@torch.no_grad()
def test_as_the_draft_of_its_dense_model(models: tuple[SecateurForCausalLM, PreTrainedModel]) -> None:
    slim, dense = models
    expected = dense.generate(prompt(), **GREEDY)
    assert dense.generate(prompt(), assistant_model=slim, **GREEDY).tolist() == expected.tolist()


@torch.no_grad()
def test_beams_with_a_cache_equal_beams_without(
    models: tuple[SecateurForCausalLM, PreTrainedModel],
) -> None:
    slim, _ = models
    cached, uncached = (slim.generate(prompt(), num_beams=3, use_cache=c, **GREEDY) for c in (True, False))
    assert cached.tolist() == uncached.tolist()


@torch.no_grad()
def test_a_cropped_cache_goes_on_where_it_was_cut(
    models: tuple[SecateurForCausalLM, PreTrainedModel],
) -> None:
    slim, _ = models
    expected = slim.generate(prompt(), use_cache=False, **GREEDY)
    assert slim.generate(prompt(), past_key_values=cropped(slim, prompt()), **GREEDY).tolist() == (
        expected.tolist()
    )


@torch.no_grad()
def test_a_cache_is_handed_from_call_to_call(models: tuple[SecateurForCausalLM, PreTrainedModel]) -> None:
    slim, _ = models
    cache = DynamicCache(config=slim.config)
    answer = slim.generate(prompt(), past_key_values=cache, **GREEDY)
    longer = torch.cat([answer, tokens(1, 4)], dim=1)
    expected = slim.generate(longer, use_cache=False, **GREEDY)
    assert slim.generate(longer, past_key_values=cache, **GREEDY).tolist() == expected.tolist()


@torch.no_grad()
def test_padding_on_the_left_changes_nothing(models: tuple[SecateurForCausalLM, PreTrainedModel]) -> None:
    slim, _ = models
    expected = slim.generate(prompt(), **GREEDY)[0, -NEW_TOKENS:]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), prompt()], dim=1)
    mask = (padded != 0).long()
    found = slim.generate(padded, attention_mask=mask, **GREEDY)[0, -NEW_TOKENS:]
    assert found.tolist() == expected.tolist()


@torch.no_grad()
def test_a_cache_has_a_slot_for_each_attention(models: tuple[SecateurForCausalLM, PreTrainedModel]) -> None:
    slim, _ = models
    attention = len(slim.config.attention_layers)
    for cache in (DynamicCache(config=slim.config), static(slim)):
        slim(prompt(), past_key_values=cache)
        assert len(cache.layers) == attention
        assert all(layer.get_seq_length() == prompt().shape[1] for layer in cache.layers)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "groups"),
    [("llama", [3, 3, 0, 3]), ("mistral", [0, 2, 2, 2]), ("qwen2", [3, 3, 0, 3]), ("qwen3", [0, 2, 2, 2])],
)
def test_continuous_batching_where_heads_agree(family: str, groups: list[int]) -> None:
    """Its paged cache has one number of KV heads for all layers."""
    slim = cut(dense_model(family), groups, [40, 0, 16, 40])
    prompts = [prompt()[0].tolist(), tokens(1, 5)[0].tolist()]
    expected = [slim.generate(torch.tensor([ids]), **GREEDY)[0, len(ids) :].tolist() for ids in prompts]
    settings = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=-1)
    memory = ContinuousBatchingConfig(use_cuda_graph=False, num_blocks=64, max_batch_tokens=64)
    answers = slim.generate_batch(
        prompts, generation_config=settings, continuous_batching_config=memory, progress_bar=False
    )
    found = [
        answers[key].generated_tokens for key in sorted(answers, key=lambda key: int(key.split("_")[-1]))
    ]
    assert found == expected


def test_no_attention_at_all_is_refused() -> None:
    dense = dense_model("llama")
    with pytest.raises(ValueError, match="every layer skips attention"):
        cut(dense, [0, 0, 0, 0], [40, 40, 40, 40])


def test_new_tokens_reach_every_config() -> None:
    slim = cut(dense_model("llama"), *SHAPES["mixed"])
    slim.resize_token_embeddings(120)
    assert slim.config.vocab_size == 120
    assert slim(torch.tensor([[119]])).logits.shape[-1] == 120
