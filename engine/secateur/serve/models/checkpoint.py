"""What a checkpoint folder says about itself, checked."""

from __future__ import annotations

import asyncio
import json
import math
import os
import resource
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from google.rpc import code_pb2

from secateur.config.serve import EngineOptions
from secateur.errors import BadInput, SecateurError, UnsupportedModel
from secateur.serve.engine.sharding import check_sharding
from secateur.serve.failures import RpcError

RECORD = "secateur.json"
# What a configuration says may make whoever reads it build things for hours; weights are not held to this.
OPEN_SECONDS, OPEN_BYTES = 60.0, 8 * 2**30


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        folder: absolute, without symbolic links.
        fingerprint: hash of config, weights and tokenizer.
        model_type: what its config says.
        weight_bytes: size of its weight files.
        parameters: in its weight files; 0 if unknown.
        record: its ``secateur.json``; empty if secateur did not make it.
    """

    folder: Path
    fingerprint: str
    model_type: str = ""
    weight_bytes: int = 0
    parameters: int = 0
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def memory_bytes(self, dtype: str) -> int:
        """Return what its weights take in memory, in a dtype of `EngineOptions`."""
        return self.parameters * (4 if dtype == "float32" else 2) or self.weight_bytes

    def config(self) -> Mapping[str, Any]:
        """Return its ``config.json``; an empty one where that cannot be read."""
        return _read(self.folder / "config.json")

    def same(self, other: Checkpoint | None) -> bool:
        """True if it is the same folder with the same content."""
        return other is not None and (self.folder, self.fingerprint) == (other.folder, other.fingerprint)


def checkpoint_from_row(folder: Path, fingerprint: str) -> Checkpoint:
    """Return what is known of a checkpoint that was read earlier, which may be gone by now."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.is_file())
    model_type = str(_read(folder / "config.json").get("model_type", ""))
    return Checkpoint(folder, fingerprint, model_type, weights, record=_read(folder / RECORD))


def read_checkpoint(folder: Path, seconds: float = 0.0) -> Checkpoint:
    """Check a checkpoint and describe it. Reads every byte of it; call it off the event loop.

    Args:
        folder: where it is.
        seconds: of processor time for its configuration; beyond them the process ends. 0 = any.

    Raises:
        SecateurError: it is not whole, or no checkpoint.
    """
    from secateur.checkpoint.safetensors_file import open_safetensors

    signal.setitimer(signal.ITIMER_PROF, seconds)
    _open(folder)
    signal.setitimer(signal.ITIMER_PROF, 0)
    weights = open_safetensors(folder)
    return Checkpoint(
        folder,
        fingerprint(folder),
        str(_read(folder / "config.json").get("model_type", "")),
        sum(file.stat().st_size for file in weights.files),
        sum(math.prod(shape) for shape in weights.shapes.values()),
        _read(folder / RECORD),
    )


def check_whole(folders: Mapping[str, Path], options: EngineOptions) -> None:
    """Prove that each model's checkpoint is whole: nobody waits for an engine that cannot start.

    Raises:
        BadInput: a model cannot be shared between so many devices.
        BrokenCheckpoint: a folder lacks weights, config or tokenizer, or a file is truncated.
    """
    for folder in folders.values():
        _open(folder)
        check_sharding(folder, options)


def _open(folder: Path) -> None:
    from secateur.checkpoint.source import open_source
    from secateur.vllm_plugin.plugin import register_config

    register_config()
    with suppress(UnsupportedModel):  # cannot be pruned, but vLLM may well be able to run it
        open_source(folder)


def fingerprint(folder: Path) -> str:
    """Return the hash of config, weights and tokenizer: `ModelSource.fingerprint`, without looking into them.

    Raises:
        SecateurError: there are no whole weights.
    """
    from secateur.checkpoint.fingerprint import fingerprint_files
    from secateur.checkpoint.safetensors_file import open_safetensors
    from secateur.checkpoint.source import TOKENIZER_FILES, TOKENIZER_SIDE_FILES

    beside = (folder / name for name in ("config.json", *TOKENIZER_FILES, *TOKENIZER_SIDE_FILES))
    return fingerprint_files([*open_safetensors(folder).files, *(file for file in beside if file.is_file())])


async def read_checkpoint_in_subprocess(folder: Path) -> Checkpoint:
    """Do what `read_checkpoint` does in a process of its own; for a call.

    Reading a tokenizer holds the interpreter for a quarter of a second, which everybody would feel.

    Raises:
        RpcError: FAILED_PRECONDITION if it is not whole, or no checkpoint.
    """
    command = (sys.executable, "-m", "secateur.serve.models.checkpoint", str(folder))
    child = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    try:
        answer, _ = await child.communicate()
    except asyncio.CancelledError:
        child.kill()
        raise
    try:
        fields = json.loads(answer)
    except ValueError:
        reason = f"it cannot be read (exit status {child.returncode})"
        if child.returncode == -signal.SIGPROF:
            reason = f"reading its configuration takes more than {OPEN_SECONDS:g} s"
        fields = {"refused": reason}
    if "refused" in fields:
        raise checkpoint_error(folder, fields["refused"])
    return Checkpoint(**{**fields, "folder": folder})


def checkpoint_error(folder: Path, why: str) -> RpcError:
    """Return the refusal of a checkpoint."""
    return RpcError(code_pb2.FAILED_PRECONDITION, "CHECKPOINT_REFUSED", f"folder: got {folder}: {why}")


def error_reason(error: Exception) -> str:
    """Return what is wrong with a checkpoint, without the name it was given."""
    return error.allowed if isinstance(error, BadInput) else str(error)


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _main(folder: Path) -> None:
    """Print what `read_checkpoint` returns, or why not, as JSON; libraries may print what they like."""
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        resource.setrlimit(resource.RLIMIT_DATA, (OPEN_BYTES, OPEN_BYTES))
        try:
            fields: dict[str, Any] = {**asdict(read_checkpoint(folder, OPEN_SECONDS)), "folder": str(folder)}
        except MemoryError:
            fields = {"refused": f"reading it takes more than {OPEN_BYTES // 2**30} GiB of memory"}
        except (SecateurError, OSError) as error:
            fields = {"refused": error_reason(error)}
        json.dump(fields, answer)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
