"""What every benchmark says about the machine it ran on, and how it writes its result.

    from benchmarks.host import write_result

    write_result("linear-loss", {"protocol": ..., "milliseconds": ...})

writes benchmarks/results/DEVICE-DATE-linear-loss.json. Result files are never edited by hand.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "triton", "transformers")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


# Of this checkout, ``-dirty`` where files differ from it. Asked when the benchmark starts: others may commit
# while it runs.
COMMIT = _commit()


def write_result(name: str, result: Mapping[str, Any]) -> Path:
    """Write a result with its `description` in front; return the file.

    Args:
        name: last part of the file name: which benchmark, with what settings.
        result: what was measured. Its keys win over those of the description: what used the CPU although
            a GPU is there says ``"device": cpu()``. Versions are merged, paths are shortened.
    """
    described = description()
    document = described | dict(result) | {"versions": described["versions"] | result.get("versions", {})}
    document = without_folders(document)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{_machine(document)}-{document['date']}-{name}.json"
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def without_folders(value: Any) -> Any:
    """Shorten the absolute paths in a document to their last two parts: the rest names this machine."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    if isinstance(value, str) and value.startswith("/"):
        return "/".join(Path(value).parts[1:][-2:])
    return value


def description() -> dict[str, Any]:
    """This machine, its packages, this commit, today."""
    return {
        "device": gpu() or cpu(),
        "cpu": cpu(),
        "cores": cores(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": COMMIT,
        "versions": versions(),
    }


def gpu() -> str | None:
    """The name of the first GPU that torch can use."""
    if find_spec("torch") is None:
        return None
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def cpu() -> str:
    """The name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return named.group(1).strip() if named else platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def slug(text: str) -> str:
    """Text as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _machine(document: Mapping[str, Any]) -> str:
    """The device in a file name; a processor with the number of its cores."""
    name = slug(document["device"])
    return f"{name}-{document['cores']}-cores" if document["device"] == document["cpu"] else name


if __name__ == "__main__":
    print(json.dumps(description(), indent=2))
