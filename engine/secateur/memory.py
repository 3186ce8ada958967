"""How much memory there is."""

from __future__ import annotations

import os


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
