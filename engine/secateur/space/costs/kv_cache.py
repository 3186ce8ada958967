"""Keys and values that a server has to keep per token of context."""

from __future__ import annotations

from secateur.model.dense import DecoderModel
from secateur.space.costs.cost import Cost
from secateur.space.space import Space


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
