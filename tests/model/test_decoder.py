"""A model as sub-blocks of tensors: nothing lost on the way in or out, nothing guessed.

Proven for every family: `named_tensors` inverts `build_model`; missing, half-missing and left-over
tensors are refused with their name; slim checkpoints come in through the same door.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur.checkpoint.configuration_secateur import slim_config
from secateur.checkpoint.source import open_source
from secateur.errors import BrokenCheckpoint, UnsupportedModel
from secateur.model.decoder import DecoderModel, build_model, named_tensors, tensors_of
from secateur.model.families import FAMILIES, family_of
from tests.conftest import LLAMAS

MakeTiny = Callable[..., Path]


def parts(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    source = open_source(folder)
    return source.config, source.tensors()


def load(folder: Path) -> DecoderModel:
    return build_model(*parts(folder), str(folder))


class TestRoundTrip:
    def test_every_tensor_comes_back(self, tiny_model: Path) -> None:
        config, tensors = parts(tiny_model)
        back = named_tensors(build_model(config, tensors, "tiny"))
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[name], tensors[name]) for name in tensors)
        if not FAMILIES[config.model_type].fused:  # nor re-ordered
            assert all(back[name] is tensors[name] for name in tensors)

    def test_biases_of_llama(self, make_tiny: MakeTiny) -> None:
        config, tensors = parts(make_tiny("llama", attention_bias=True, mlp_bias=True))
        model = build_model(config, tensors, "tiny")
        assert model.layers[0].attention.output_bias_H is not None
        assert model.layers[0].ffn.down_bias_H is not None
        assert named_tensors(model).keys() == tensors.keys()

    def test_shape(self, tiny_model: Path) -> None:
        model = load(tiny_model)
        config = model.config
        assert model.num_layers == 3 and model.hidden_size == 128
        assert model.queries_per_group == config.num_attention_heads // config.num_key_value_heads
        for layer in range(3):
            assert model.width(layer, "attention") == config.num_key_value_heads
            assert model.width(layer, "ffn") == config.intermediate_size
        assert model.tied == config.tie_word_embeddings
        assert (model.head_VH is model.embedding_VH) == model.tied

    def test_buffers_of_old_exporters_are_ignored(self, tiny_llama: Path) -> None:
        config, tensors = parts(tiny_llama)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(16)
        assert len(named_tensors(build_model(config, tensors, "tiny"))) == len(tensors) - 1


class TestDtype:
    def test_every_tensor(self, tiny_model: Path) -> None:
        model = load(tiny_model).to(torch.bfloat16)
        assert model.dtype == torch.bfloat16
        assert {tensor.dtype for tensor in named_tensors(model).values()} == {torch.bfloat16}

    def test_a_tied_head_stays_tied(self, tiny_qwen2: Path) -> None:
        model = load(tiny_qwen2).to(torch.bfloat16)
        assert model.head_VH is model.embedding_VH

    def test_the_original_is_left_alone(self, tiny_llama: Path) -> None:
        model = load(tiny_llama)
        model.to(torch.bfloat16)
        assert model.dtype == torch.float32


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("model.embed_tokens.weight", "model.embed_tokens.weight is missing"),
            ("model.norm.weight", "model.norm.weight is missing"),
            ("lm_head.weight", "lm_head.weight is missing"),
            ("model.layers.1.self_attn.k_proj.weight", "layer 1 attention lacks key_KH"),
            ("model.layers.2.mlp.down_proj.weight", "layer 2 ffn lacks down_HC"),
            ("model.layers.0.post_attention_layernorm.weight", "layer 0 ffn lacks norm_H"),
        ],
    )
    def test_missing(self, name: str, words: str, tiny_llama: Path) -> None:
        config, tensors = parts(tiny_llama)
        del tensors[name]
        with pytest.raises(BrokenCheckpoint, match=words):
            build_model(config, tensors, "tiny")

    @pytest.mark.parametrize(
        "name",
        [
            "model.layers.0.self_attn.sinks",
            "model.layers.3.mlp.up_proj.weight",
            "model.layers.0.mlp.up_proj.bias_correction",
            "vision.embed.weight",
        ],
    )
    def test_left_over(self, name: str, tiny_llama: Path) -> None:
        config, tensors = parts(tiny_llama)
        tensors[name] = torch.zeros(3)
        with pytest.raises(BrokenCheckpoint, match="unexpected tensor " + name):
            build_model(config, tensors, "tiny")

    def test_a_bias_that_the_family_does_not_have(self, tiny_mistral: Path) -> None:
        config, tensors = parts(tiny_mistral)
        tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(128)
        with pytest.raises(BrokenCheckpoint, match=r"unexpected tensor .*q_proj\.bias"):
            build_model(config, tensors, "tiny")

    def test_another_activation(self, make_tiny: MakeTiny) -> None:
        config, tensors = parts(make_tiny("llama", hidden_act="gelu"))
        with pytest.raises(UnsupportedModel, match="model: got tiny: activation gelu"):
            build_model(config, tensors, "tiny")

    def test_unknown_family(self) -> None:
        with pytest.raises(UnsupportedModel, match=f"supported are {', '.join(sorted(FAMILIES))}$"):
            family_of("gpt2")

    @pytest.mark.parametrize(
        ("family", "changes", "reason"),
        [
            ("gemma3_text", {"hidden_activation": "silu"}, "activation silu; only gelu_pytorch_tanh"),
            ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
            ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ],
    )
    def test_variants_of_a_family_that_are_not_supported(
        self, family: str, changes: dict[str, Any], reason: str, make_tiny: MakeTiny
    ) -> None:
        config, tensors = parts(make_tiny(family, **changes))
        with pytest.raises(UnsupportedModel, match=f"model: got tiny: {reason}"):
            build_model(config, tensors, "tiny")


class TestSlim:
    """A per-layer checkpoint is a model whose tensors are narrower or absent."""

    GROUPS, CHANNELS = (1, 0, 2), (192, 64, 0)

    def slim(self, folder: Path) -> tuple[Any, dict[str, Tensor]]:
        """The first units of every sub-block, cut by hand."""
        config, tensors = parts(folder)
        model = build_model(config, tensors, "tiny")
        wanted = slim_config(config, self.GROUPS, self.CHANNELS)
        D, R = model.head_dim, model.queries_per_group
        kept = {}
        for name, tensor in tensors.items():
            module = name.removeprefix("model.layers.")
            if module == name:
                kept[name] = tensor
                continue
            layer, module = module.split(".", 1)
            groups, channels = self.GROUPS[int(layer)], self.CHANNELS[int(layer)]
            attention = module.startswith(("self_attn", "input_layernorm"))
            if not (groups if attention else channels):
                continue
            if ".q_proj" in module:
                tensor = tensor[: groups * R * D]
            elif ".k_proj" in module or ".v_proj" in module:
                tensor = tensor[: groups * D]
            elif ".o_proj" in module:
                tensor = tensor[:, : groups * R * D]
            elif ".down_proj" in module:
                tensor = tensor[:, :channels]
            elif module.startswith("mlp"):
                tensor = tensor[:channels]
            kept[name] = tensor
        return wanted, kept

    @pytest.mark.parametrize("family", LLAMAS)
    def test_loads(self, family: str, tiny_of: Callable[[str], Path]) -> None:
        tiny_model = tiny_of(family)
        config, tensors = self.slim(tiny_model)
        model = build_model(config, tensors, "slim")
        assert tuple(model.width(layer, "attention") for layer in range(3)) == self.GROUPS
        assert tuple(model.width(layer, "ffn") for layer in range(3)) == self.CHANNELS
        assert model.layers[1].attention is None and model.layers[2].ffn is None
        dense = load(tiny_model)
        assert (model.head_dim, model.queries_per_group) == (dense.head_dim, dense.queries_per_group)
        assert named_tensors(model).keys() == tensors.keys()

    def test_family_of_the_model_it_was_cut_from(self, tiny_qwen3: Path) -> None:
        model = build_model(*self.slim(tiny_qwen3), "slim")
        assert model.family is FAMILIES["qwen3"]
        assert model.layers[0].attention.query_norm_D is not None

    def test_left_over_of_a_removed_sub_block(self, tiny_llama: Path) -> None:
        config, tensors = self.slim(tiny_llama)
        tensors["model.layers.1.self_attn.k_proj.weight"] = torch.zeros(32, 128)
        with pytest.raises(BrokenCheckpoint, match="layer 1 attention lacks"):
            build_model(config, tensors, "slim")


def test_tensors_of_leaves_out_what_is_absent(tiny_llama: Path) -> None:
    block = load(tiny_llama).layers[0].attention
    assert set(tensors_of(block)) == {"norm_H", "query_QH", "key_KH", "value_KH", "output_HQ"}
