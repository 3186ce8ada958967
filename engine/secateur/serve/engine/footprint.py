"""What an engine holds of each of its GPUs beside keys and values, as far as that can be known beforehand.

With the room for keys and values given, vLLM 0.32 does not measure the rest, so it has to be reckoned. Shape
suffixes stand for tokens of a step (T), hidden size (D), channels (F) and vocabulary (V).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur.config.serve import EngineOptions
from secateur.serve.engine.sharding import layer_shapes
from secateur.serve.engine.steps import num_sequences, step_tokens

CONTEXT_BYTES = 2**30
"""CUDA's context, workspaces of cuBLAS, buffers of NCCL, what torch keeps. Not measured by us; logs of others
show 0.3 to 0.9 GiB."""

GRAPH_BYTES = 64 * 2**20
"""One batch size, captured twice: whole decode steps, and pieces. Logs of others show 24 to 28 MiB each."""

UNKNOWN_BYTES = 3 * 2**30
"""Activations and graphs of a model whose config does not describe layers as those we prune do."""

_WIDEST_TENSORS = 3  # of T x F: gate and up as one, and their product
_HIDDEN_TENSORS = 6  # of T x D: stream, residual, queries, keys, values, output
_LOGITS_TENSORS = 3  # of sequences x V, in fp32: logits, what sampling sorts, probabilities


@dataclass(frozen=True)
class Footprint:
    """Bytes on each GPU of an engine.

    Attributes:
        weights: the share of one GPU.
        activations: of the largest step.
        graphs: CUDA graphs.
        context: everything else.
        kv_per_token: keys and values of a token; 0 if unknown.
    """

    weights: int
    activations: int = 0
    graphs: int = 0
    context: int = CONTEXT_BYTES
    kv_per_token: int = 0

    @property
    def fixed(self) -> int:
        """All but keys and values."""
        return self.weights + self.activations + self.graphs + self.context


def footprint(config: Mapping[str, Any], weights: int, options: EngineOptions) -> Footprint:
    """Reckon the footprint of a checkpoint.

    Args:
        config: its ``config.json``; an empty one if unknown.
        weights: bytes of all its weights, in the dtype that they will run in.
        options: how it will run.
    """
    sizes = 4 if options.dtype == "float32" else 2
    graphs = 0 if options.compiled is False else GRAPH_BYTES * num_captures(num_sequences(options))
    try:
        return Footprint(
            weights=_weights_of_a_rank(config, weights, options, sizes),
            activations=_activations(config, options, sizes),
            graphs=graphs,
            kv_per_token=_kv_per_token(config, options, sizes),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return Footprint(-(-weights // options.ranks), UNKNOWN_BYTES, graphs)


def num_captures(max_sequences: int) -> int:
    """How many batch sizes vLLM 0.32 captures: 1, 2, 4, then every 8, to twice the sequences, at most 512."""
    most = min(2 * max_sequences, 512)
    return sum(size <= most for size in (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)))


def _weights_of_a_rank(config: Mapping[str, Any], weights: int, options: EngineOptions, size: int) -> int:
    """Of the fullest: with several stages, the first has the embedding and the last the head."""
    embedding = int(config["vocab_size"]) * int(config["hidden_size"]) * size
    tied = bool(config.get("tie_word_embeddings"))
    layers = max(0, weights - embedding * (1 if tied else 2))
    stages = options.pipeline_parallel
    most_layers = -(-int(config["num_hidden_layers"]) // stages) / int(config["num_hidden_layers"])
    ends = embedding if stages > 1 or tied else 2 * embedding
    return int(layers * most_layers + ends) // options.tensor_parallel


def _activations(config: Mapping[str, Any], options: EngineOptions, size: int) -> int:
    widest = max(shape.channels for shape in layer_shapes(config)) // options.tensor_parallel
    row = _WIDEST_TENSORS * widest + _HIDDEN_TENSORS * int(config["hidden_size"])
    logits = _LOGITS_TENSORS * num_sequences(options) * int(config["vocab_size"]) * 4
    return step_tokens(options, cpu=False) * row * size + logits


def _kv_per_token(config: Mapping[str, Any], options: EngineOptions, size: int) -> int:
    """Of the fullest rank; a KV head that there are too few of is on several."""
    head_dim = config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"])
    heads = [
        -(-shape.kv_heads // options.tensor_parallel) for shape in layer_shapes(config) if shape.kv_heads
    ]
    layers = -(-int(config["num_hidden_layers"]) // options.pipeline_parallel)
    return 2 * int(head_dim) * size * sum(sorted(heads, reverse=True)[:layers])
