"""What is known of a model beside its speed: size, bytes of keys and values, perplexity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secateur.bench.shape import DTYPE_BYTES, read_shape
from secateur.errors import BadInput


@dataclass(frozen=True)
class ModelInfo:
    """What a server or a checkpoint says of a model; None and empty where it does not.

    Attributes:
        name: as in reports.
        version: of the model that answers under that name.
        architecture: the class that runs it.
        dtype: of weights and activations.
        parameters: total number.
        weight_bytes: of all weights in that dtype; a server says the size of its files.
        kv_bytes_per_token: of keys and values, in that dtype.
        perplexity: by corpus.
    """

    name: str
    version: str = ""
    architecture: str = ""
    dtype: str = ""
    parameters: int | None = None
    weight_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    perplexity: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def completed_by(self, other: ModelInfo) -> ModelInfo:
        """These, and from `other` what is not said here."""
        mine = {key: value for key, value in asdict(self).items() if value not in (None, "", {})}
        return ModelInfo(**{**asdict(other), **mine})


def checkpoint_info(name: str, folder: Path, dtype: str = "") -> ModelInfo:
    """What a checkpoint folder says.

    Args:
        dtype: in which it runs; "" = that of its configuration.

    Raises:
        BadInput: the folder holds no checkpoint.
    """
    config = read_config(folder)
    dtype = dtype or default_dtype(config)
    shape = read_shape(folder, config)
    return ModelInfo(
        name=name,
        architecture=(config.get("architectures") or [""])[0],
        dtype=dtype,
        parameters=shape.parameters,
        weight_bytes=shape.parameters * DTYPE_BYTES[dtype],
        kv_bytes_per_token=shape.kv_bytes_per_token(dtype),
        perplexity=_perplexity(folder),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a checkpoint.

    Raises:
        BadInput: there is none.
    """
    file = folder / "config.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput("checkpoint", folder, "no checkpoint folder: config.json cannot be read") from error
    if not isinstance(document, dict):
        raise BadInput("checkpoint", folder, "config.json is no configuration")
    return document


def default_dtype(config: Mapping[str, Any]) -> str:
    """In which a checkpoint is served by default: its own, but float32 as bfloat16."""
    dtype_name = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    return dtype_name if dtype_name in ("float16", "bfloat16") else "bfloat16"


def _perplexity(folder: Path) -> dict[str, float]:
    """By corpus, of the slim model itself, as `secateur prune` wrote it down."""
    try:
        record = json.loads((folder / "secateur.json").read_text(encoding="utf-8"))
        perplexities = (record.get("slim") or record)["perplexity"]
        return {str(corpus): float(value) for corpus, value in perplexities.items()}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}
