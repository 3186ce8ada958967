"""Layers that the user wants left whole: ``0``, ``first:2``, ``last:1``."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.errors import BadInput


def parse_protected_layers(parts: Sequence[str], num_layers: int) -> frozenset[int]:
    """Indices of the layers that are named.

    Args:
        parts: indices from 0, ``first:N`` and ``last:N``.

    Raises:
        BadInput: not of that form, or a layer that the model does not have.
    """
    layers: set[int] = set()
    for part in parts:
        end, colon, number = part.rpartition(":")
        if not number.isdecimal() or end not in ("", "first", "last") or (colon and not end):
            raise BadInput("protect", ",".join(parts), "give layers such as 0,1,29, or first:2,last:1")
        count = int(number)
        if count >= num_layers + (1 if end else 0):
            raise BadInput(
                "protect", ",".join(parts), f"the model has {num_layers} layers, 0 to {num_layers - 1}"
            )
        if end == "first":
            layers.update(range(count))
        elif end == "last":
            layers.update(range(num_layers - count, num_layers))
        else:
            layers.add(count)
    return frozenset(layers)
