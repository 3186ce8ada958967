"""How much memory the keys and values of an engine may take where vLLM cannot find out by itself.

On a CPU vLLM would claim a fraction of all memory, which a second engine, or anything else that runs,
makes fail. So the room is always given to it in bytes.
"""

from __future__ import annotations

import os

MAX_KV_CACHE_BYTES = 2**30
"""vLLM fills this room with zeros at start, which takes a second or more per GiB."""

MIN_KV_CACHE_BYTES = 64 * 2**20
KV_CACHE_FRACTION = 0.4
"""Fraction of the available memory for the keys and values of all engines together."""


def kv_cache_bytes(num_engines: int) -> int:
    """Return one engine's share, in bytes, of the memory available now."""
    return kv_cache_share(available_bytes(), num_engines)


def kv_cache_share(available: int, num_engines: int) -> int:
    """Return ``KV_CACHE_FRACTION`` of the available bytes, by engine, within the limits above."""
    share = int(available * KV_CACHE_FRACTION) // max(1, num_engines)
    return max(MIN_KV_CACHE_BYTES, min(MAX_KV_CACHE_BYTES, share))


def available_bytes() -> int:
    """Return the memory that can be had without swapping: of the host, or less if a cgroup says so."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        host = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    return min(host, _cgroup_room())


def _cgroup_room() -> int:
    try:
        limit, used = (_read(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return 2**62
    return max(0, limit - used)


def _read(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())
