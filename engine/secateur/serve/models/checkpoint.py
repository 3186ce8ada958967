"""What a checkpoint folder says about itself, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.rpc import code_pb2

from secateur.errors import BadInput, SecateurError, UnsupportedModel
from secateur.serve.failures import Refused

RECORD = "secateur.json"


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

    def same(self, other: Checkpoint | None) -> bool:
        """True if it is the same folder with the same content."""
        return other is not None and (self.folder, self.fingerprint) == (other.folder, other.fingerprint)


def remembered_checkpoint(folder: Path, fingerprint: str) -> Checkpoint:
    """Return what is known of a checkpoint that was read earlier, which may be gone by now."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.is_file())
    model_type = str(_read(folder / "config.json").get("model_type", ""))
    return Checkpoint(folder, fingerprint, model_type, weights, record=_read(folder / RECORD))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Check a checkpoint and describe it. Reads every byte of it; call it off the event loop.

    Raises:
        SecateurError: it is not whole, or no checkpoint.
    """
    from secateur.model.fingerprint import fingerprint_files
    from secateur.model.source import open_source
    from secateur.slim.registration import register_config

    register_config()
    parameters = 0
    try:
        source = open_source(folder)
        fingerprint, weights = source.fingerprint, list(source.weights.files)
        parameters = sum(math.prod(shape) for shape in source.weights.shapes.values())
    except UnsupportedModel:  # cannot be pruned, but vLLM may well be able to run it
        weights = sorted(folder.glob("*.safetensors"))
        fingerprint = fingerprint_files([*weights, *folder.glob("*.json")])
    return Checkpoint(
        folder,
        fingerprint,
        str(_read(folder / "config.json").get("model_type", "")),
        sum(file.stat().st_size for file in weights),
        parameters,
        _read(folder / RECORD),
    )


def read_or_refuse(folder: Path) -> Checkpoint:
    """Do what `read_checkpoint` does; for a call.

    Raises:
        Refused: FAILED_PRECONDITION if it is not whole, or no checkpoint.
    """
    try:
        return read_checkpoint(folder)
    except (SecateurError, OSError) as error:
        why = error.allowed if isinstance(error, BadInput) else str(error)
        raise Refused(
            code_pb2.FAILED_PRECONDITION, "CHECKPOINT_REFUSED", f"folder: got {folder}: {why}"
        ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
