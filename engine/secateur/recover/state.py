"""The state of a training run on disk: whole or absent, so that a killed run goes on from it.

One safetensors file: tensors by name, and numbers as JSON in its metadata. No pickle: a state cannot
run code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.errors import BadInput
from secateur.storage import os_errors_as_output_failed

FILE = "state.safetensors"
KEY = "recovery"


@dataclass(frozen=True)
class Validated:
    """What validation found at a step; step 0 is the input."""

    step: int
    seconds: float
    kl: float
    nll: float


@dataclass
class Progress:
    """The numbers of a run.

    Attributes:
        step: steps done.
        seconds: spent on them and on validation, over all processes that took part.
        losses: mean KL of each step's windows before the step.
        validated: in their order.
    """

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    validated: list[Validated] = field(default_factory=list)

    @property
    def best(self) -> Validated:
        """The least KL; the earlier of two equal ones."""
        return min(self.validated, key=lambda each: each.kl)


def save_state(
    folder: Path, identity: Mapping[str, Any], progress: Progress, tensors: dict[str, Tensor]
) -> None:
    """Write the state in place of an earlier one.

    Raises:
        OutputFailed: the disk is full, or the folder cannot be written.
    """
    temporary = folder / f".{FILE}.tmp"
    document = {"identity": identity, "progress": asdict(progress)}
    try:
        with os_errors_as_output_failed(folder / FILE):
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, metadata={KEY: json.dumps(document)})
            os.replace(temporary, folder / FILE)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def forget_state(folder: Path) -> None:
    """Remove the state, and the folder if nothing else is in it."""
    with suppress(OSError):
        (folder / FILE).unlink(missing_ok=True)
        folder.rmdir()


def load_state(folder: Path, identity: Mapping[str, Any]) -> tuple[Progress, dict[str, Tensor]] | None:
    """The state in a folder; None where there is none.

    Raises:
        BadInput: it is of a run with other options, or damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as stored:
            document = json.loads(stored.metadata()[KEY])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        numbers = document["progress"]
        numbers["validated"] = [Validated(**each) for each in numbers["validated"]]
        progress, found = Progress(**numbers), document["identity"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadInput("out", folder, f"a damaged state of an earlier run ({error}); remove it") from error
    plain = json.loads(json.dumps(identity))
    if other := [key for key in plain if found.get(key) != plain[key]]:
        reason = f"an earlier run with another `{other[0]}` stopped here; repeat its options, or remove it"
        raise BadInput("out", folder, reason)
    return progress, tensors
