"""Parameters, the bytes that they take, and those of the keys and values of a token."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.model.architecture import Kind, Slot
from secateur.model.decoder import DecoderModel
from secateur.model.units import num_parameters, prefix_of_units
from secateur.space.costs.cost import Cost
from secateur.space.space import Space


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of an architecture or model."""

    total: int
    non_embedding: int

    def to_json(self) -> dict[str, int]:
        """As in every JSON document of Secateur."""
        return {"total": self.total, "non_embedding": self.non_embedding}

    def fraction_of(self, dense: ParameterCount) -> dict[str, float]:
        """What is kept of the dense model, as in every JSON document of Secateur."""
        return {
            "total": round(self.total / dense.total, 5),
            "non_embedding": round(self.non_embedding / dense.non_embedding, 5),
        }


def parameter_cost(model: DecoderModel, space: Space) -> Cost:
    """Non-embedding parameters: every sub-block with its norm, and the final norm."""
    table: dict[Slot, dict[int, int]] = {}
    for layer, kind in space.slots:
        widths = space.widths(layer, kind)
        table[layer, kind] = {width: _block_parameters(model, layer, kind, width) for width in widths}
    return Cost("non-embedding parameters", model.final_norm_H.numel(), table)


def total_cost(model: DecoderModel, space: Space) -> Cost:
    """All parameters, embedding and head included."""
    return parameter_cost(model, space).scaled(1, "parameters", embedding_parameters(model))


def memory_cost(model: DecoderModel, space: Space) -> Cost:
    """Bytes of all weights in the model's dtype."""
    size = model.embedding_VH.element_size()
    return parameter_cost(model, space).scaled(size, "weight bytes", embedding_parameters(model))


def kv_cache_cost(model: DecoderModel, space: Space) -> Cost:
    """Bytes per token: a key and a value of `head_dim` numbers per KV group, in the model's dtype.

    FFNs cost nothing.
    """
    group = 2 * model.head_dim * model.embedding_VH.element_size()
    table = {
        slot: {width: width * group if slot[1] == "attention" else 0 for width in space.widths(*slot)}
        for slot in space.slots
    }
    return Cost("KV-cache bytes per token", 0, table)


def embedding_parameters(model: DecoderModel) -> int:
    """Parameters of the embedding and, when it is not tied, of the head."""
    return model.embedding_VH.numel() * (1 if model.tied else 2)


def count_parameters(model: DecoderModel) -> ParameterCount:
    """Parameters of a model as it is."""
    blocks = sum(num_parameters(half) for layer in model.layers for half in (layer.attention, layer.ffn))
    non_embedding = blocks + model.final_norm_H.numel()
    return ParameterCount(non_embedding + embedding_parameters(model), non_embedding)


def _block_parameters(model: DecoderModel, layer: int, kind: Kind, width: int) -> int:
    block = model.layers[layer].sub_block(kind)
    if block is None or width == 0:
        return 0
    return num_parameters(prefix_of_units(block, width, model.head_dim, model.queries_per_group))
