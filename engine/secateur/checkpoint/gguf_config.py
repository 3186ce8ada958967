"""The configuration of a model in a GGUF file, from its header alone.

Transformers' own reading drops what its table lacks (rotary scaling, head sizes, biases), without a word.
Here every key of the architecture is read, known to change nothing, or refused. Names and meanings
are those of llama.cpp's converter and loader (``convert_hf_to_gguf.py``, ``llama-model.cpp``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.checkpoint.gguf_file import GgufFile
from secateur.errors import BrokenCheckpoint, UnsupportedModel

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedConfig

# llama.cpp writes Mistral models as llama.
ARCHITECTURES = ("llama", "qwen2", "qwen3")
READ = frozenset(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
        "attention.sliding_window",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_log_multiplier",
    }
)
# The vocabulary is counted from the embedding; the others describe the file or another use of the model.
HARMLESS = frozenset({"vocab_size", "rope.scaling.finetuned", "tensor_data_layout", "pooling_type"})
# At these values a key says what is so anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
}
LARGEST_COUNT = 1 << 31


def config_of_gguf(gguf: GgufFile) -> PreTrainedConfig:
    """Return the transformers configuration that the header of ``gguf`` describes.

    Raises:
        BrokenCheckpoint: a field is missing, or no value that a model can have.
        UnsupportedModel: a field changes results in a way that cannot be honoured.
    """
    from transformers import AutoConfig

    header = _Header(gguf.files[0], gguf.architecture, gguf.metadata)
    if header.architecture not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        reason = f"a GGUF file of architecture {header.architecture!r:.60}; supported: {supported}"
        raise UnsupportedModel("model", header.file, reason)
    _check_understood(header, gguf)
    fields = _fields(header, gguf)
    try:
        return AutoConfig.for_model(gguf.architecture, **fields)
    except Exception as error:  # each configuration class validates in its own way
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise BrokenCheckpoint("model", header.file, f"unusable config: {reason}") from error


@dataclass(frozen=True)
class _Header:
    """The fields of the architecture, by their names without it."""

    file: Path
    architecture: str
    metadata: dict[str, object]

    def get(self, key: str) -> object | None:
        return self.metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number, with the fewest digits that are the same 32-bit float."""
        import numpy as np

        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise BrokenCheckpoint("model", self.file, f"its header has {self.given(key)}")
        return value if isinstance(value, int) else float(str(np.float32(value)))

    def count(self, key: str, default: int | None = None) -> int:
        number = self.number(key, default)
        if number > LARGEST_COUNT or number != int(number):
            raise BrokenCheckpoint("model", self.file, f"its header has {self.given(key)}")
        return int(number)

    def given(self, key: str) -> str:
        value = self.get(key)
        return (
            f"no {self.architecture}.{key}" if value is None else f"{self.architecture}.{key} = {value!r:.60}"
        )

    def refuse(self, key: str, reason: str) -> UnsupportedModel:
        return UnsupportedModel("model", self.file, f"its header has {self.given(key)}: {reason}")


def _check_understood(header: _Header, gguf: GgufFile) -> None:
    prefix = f"{header.architecture}."
    for name in gguf.array_lengths:
        if name.startswith(prefix):
            raise UnsupportedModel(
                "model", header.file, f"its header has a list {name}: layers that differ are not supported"
            )
    for name, value in header.metadata.items():
        key = name.removeprefix(prefix)
        if key == name or key in READ or key in HARMLESS or value in NEUTRAL.get(key, ()):
            continue
        raise header.refuse(key, "not supported")


def _fields(header: _Header, gguf: GgufFile) -> dict[str, Any]:
    layers, heads = header.count("block_count"), header.count("attention.head_count")
    stored = {name.split(".")[2] for name in gguf.entries if name.startswith("model.layers.")}
    if len(stored) != layers:
        raise BrokenCheckpoint(
            "model", header.file, f"{header.given('block_count')}, but {len(stored)} layers"
        )
    hidden, context = header.count("embedding_length"), header.count("context_length")
    head_dim = header.count("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if header.count(key, head_dim) != head_dim:
            raise header.refuse(key, f"only the size of a head ({head_dim}) is supported")
    window = header.get("attention.sliding_window")
    if window and header.count("attention.sliding_window") < context:
        raise header.refuse("attention.sliding_window", "give the Hugging Face folder instead")
    fields: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": header.count("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.count("attention.head_count_kv", heads),
        "max_position_embeddings": context,
        "rms_norm_eps": float(header.number("attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": "lm_head.weight" not in gguf.entries,
        "vocab_size": gguf.shapes.get("model.embed_tokens.weight", (0,))[0],
    }
    # Qwen2's config has no such field; vLLM's Qwen2 ignores it.
    if header.architecture != "qwen2" or head_dim * heads != hidden:
        fields["head_dim"] = head_dim
    if header.architecture != "qwen2":
        fields["attention_bias"] = _has_bias(gguf, ".self_attn.")
    if header.architecture == "llama":
        fields["mlp_bias"] = _has_bias(gguf, ".mlp.")
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        token = gguf.metadata.get(f"tokenizer.ggml.{key}_token_id")
        known = isinstance(token, int) and 0 <= token < fields["vocab_size"]
        fields[f"{role}_token_id"] = token if known else None
    fields["rope_parameters"] = _rope(header, gguf.rope_factors, head_dim, context)
    return fields


def _has_bias(gguf: GgufFile, block: str) -> bool:
    return any(block in name and name.endswith(".bias") for name in gguf.entries)


def _rope(
    header: _Header, rope_factors: np.ndarray | None, head_dim: int, context: int
) -> dict[str, str | float]:
    """The parameters of the rotary embedding, as transformers names them."""
    theta = float(header.number("rope.freq_base", 10000.0))
    unscaled: dict[str, str | float] = {"rope_type": "default", "rope_theta": theta}
    kind = header.get("rope.scaling.type") or "linear"
    if kind not in ("none", "linear", "yarn"):
        raise header.refuse("rope.scaling.type", "none, linear and yarn are supported")
    key = "rope.scaling.factor" if header.get("rope.scaling.factor") else "rope.scale_linear"
    factor = header.number(key) if header.get(key) and kind != "none" else 1.0
    if kind == "yarn" and rope_factors is None:
        return unscaled | _yarn(header, float(factor), context)
    for name in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier"):
        if header.get(f"rope.scaling.{name}") not in (None, 0.0, 1.0):
            raise header.refuse(f"rope.scaling.{name}", "supported where rope.scaling.type is yarn")
    if rope_factors is not None:
        if header.architecture != "llama" or factor != 1:
            raise UnsupportedModel(
                "model", header.file, "rope_freqs.weight beside other rotary scaling, or not in a Llama model"
            )
        parameters = llama3_parameters(rope_factors, theta, head_dim)
        if parameters is None:
            reason = (
                "factors in rope_freqs.weight that are not Llama 3.1's; give the Hugging Face folder instead"
            )
            raise UnsupportedModel("model", header.file, reason)
        return unscaled | parameters
    return unscaled | ({"rope_type": "linear", "factor": float(factor)} if factor != 1 else {})


def _yarn(header: _Header, factor: float, context: int) -> dict[str, str | float]:
    """YaRN's parameters.

    ``yarn_attn_factor`` is what the converter finds as ``attention_factor``, the whole factor, or as
    ``attn_factor``, one on top of YaRN's own; only at 1 it matters which, as transformers ignores the latter.
    """
    if header.get("rope.scaling.yarn_ext_factor") not in (None, -1.0, 1.0):
        raise header.refuse("rope.scaling.yarn_ext_factor", "only 1 is supported")
    if header.get("rope.scaling.yarn_attn_factor") == 1.0:
        raise header.refuse(
            "rope.scaling.yarn_attn_factor", "ambiguous; give the Hugging Face folder instead"
        )
    parameters: dict[str, str | float] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": header.count("rope.scaling.original_context_length", context),
    }
    for name in ("beta_fast", "beta_slow"):
        if header.get(f"rope.scaling.yarn_{name}") is not None:
            parameters[name] = float(header.number(f"rope.scaling.yarn_{name}"))
    if header.get("rope.scaling.yarn_attn_factor") is not None:
        parameters["attention_factor"] = float(header.number("rope.scaling.yarn_attn_factor"))
    elif header.get("rope.scaling.attn_factor") or header.get("rope.scaling.yarn_log_multiplier"):
        multiplier = header.get("rope.scaling.yarn_log_multiplier") or 0.0
        divisor = header.number("rope.scaling.yarn_log_multiplier") if multiplier else 0.0
        own = (1 + 0.1 * math.log(max(factor, 1))) / (1 + 0.1 * divisor * math.log(max(factor, 1)))
        parameters["attention_factor"] = own * header.number("rope.scaling.attn_factor", 1.0)
    return parameters


def llama3_parameters(stored: np.ndarray, theta: float, head_dim: int) -> dict[str, str | float] | None:
    """The parameters of Llama 3.1's scaling from the factors that the converter computed of them.

    Args:
        stored: by what each of the head_dim / 2 frequencies is divided.
        theta: base of the frequencies.

    Returns:
        Parameters whose factors are those stored (there may be several); None where there are none.
    """
    import numpy as np

    if stored.shape != (head_dim // 2,) or not (stored.min() > 0 and 1 < stored.max() < math.inf):
        return None
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    for factor, high, original in _llama3_candidates(stored, wavelengths):
        smooth = np.clip((original / wavelengths - 1) / (high - 1), 0, 1)
        if np.allclose(1 / ((1 - smooth) / factor + smooth), stored, rtol=1e-5, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    return None


def _llama3_candidates(stored: np.ndarray, wavelengths: np.ndarray) -> Iterator[tuple[float, float, int]]:
    """Pairs of factor, high frequency factor and original length; the low frequency factor is 1.

    Only the ratios of the last three matter, so any scaling can be written with a low factor of 1.
    """
    import numpy as np

    for factor in (float(stored.max()), 8.0, 32.0):
        yield from ((factor, 4.0, 1 << bits) for bits in (13, *range(4, 24)))
        # Between the two thresholds, 1 / stored is a straight line over the frequency.
        smooth = (1 / stored - 1 / factor) / (1 - 1 / factor)
        between = np.flatnonzero((smooth > 1e-4) & (smooth < 1 - 1e-4))
        if between.size >= 2 and wavelengths[between[0]] < wavelengths[between[-1]]:
            first, last = between[0], between[-1]
            slope = (smooth[first] - smooth[last]) / (1 / wavelengths[first] - 1 / wavelengths[last])
            intercept = smooth[first] - slope / wavelengths[first]
            if intercept < 0 < slope < math.inf:
                yield factor, round(float(1 - 1 / intercept), 4), round(float(-slope / intercept))
