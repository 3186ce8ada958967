"""How much memory keys and values of an engine may take on a CPU, and what all engines reckon with.

On a CPU vLLM would claim a fraction of all memory, which a second engine, or anything else that runs,
makes fail. So the room is always given to it in bytes.
"""

from __future__ import annotations

from secateur.memory import available_bytes

MAX_KV_CACHE_BYTES = 2**30
"""vLLM fills this room with zeros at start, which takes a second or more per GiB."""

MIN_KV_CACHE_BYTES = 64 * 2**20
UNPLANNED_FRACTION = 0.01
"""vLLM wants a part of a GPU to be free at start even where the room for keys and values is given: this much
where nothing was planned. Its default, 0.92, no second engine finds."""

KV_CACHE_FRACTION = 0.4
"""Fraction of the available memory for the keys and values of all engines together."""


def kv_cache_bytes(num_engines: int) -> int:
    """Return one engine's share, in bytes, of the memory available now."""
    return kv_cache_share(available_bytes(), num_engines)


def kv_cache_share(available: int, num_engines: int) -> int:
    """Return ``KV_CACHE_FRACTION`` of the available bytes, by engine, within the limits above."""
    share = int(available * KV_CACHE_FRACTION) // max(1, num_engines)
    return max(MIN_KV_CACHE_BYTES, min(MAX_KV_CACHE_BYTES, share))
