"""What is timed without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.bench.models import read_config
from secateur.errors import BadInput

DECODE_STEPS = 12  # of a turn; the first finds cold caches and is not counted
ROUNDS = 9
MAX_BATCH = 1024


@dataclass(frozen=True)
class OfflinePlan:
    """What is timed: every model at every batch, in turns.

    Attributes:
        folders: checkpoint by the name it has in reports.
        batches: sequences computed together.
        input_tokens: of each prompt that is read.
        context: of each sequence, on average, while it is decoded.
        rounds: turns of every model at every batch.
        dtype: of weights and activations.
        threads: of an engine on a CPU; None = as many as `secateur serve` would give one.
    """

    folders: tuple[tuple[str, Path], ...]
    batches: tuple[int, ...] = (1, 8, 32)
    input_tokens: int = 256
    context: int = 256
    rounds: int = ROUNDS
    dtype: str = "bfloat16"
    threads: int | None = None

    def __post_init__(self) -> None:
        for option, value, least in (
            ("input_len", self.input_tokens, 1),
            ("context", self.context, DECODE_STEPS),
            ("rounds", self.rounds, 1),
        ):
            if value < least:
                raise BadInput(option, value, f"at least {least}")
        longest = max(self.input_tokens, self.context) + DECODE_STEPS
        for _, folder in self.folders:
            config = read_config(folder)
            most = config.get("max_position_embeddings")
            if most is not None and longest > most:
                raise BadInput("input_len", self.input_tokens, f"the context of {folder} is {most} tokens")

    def to_json(self) -> dict[str, Any]:
        return {
            "folders": {name: str(folder) for name, folder in self.folders},
            "batches": list(self.batches),
            "input_tokens": self.input_tokens,
            "context": self.context,
            "rounds": self.rounds,
            "dtype": self.dtype,
            "threads": self.threads,
        }


def parse_folders(arguments: Sequence[str]) -> tuple[tuple[str, Path], ...]:
    """Read ``DIR`` or ``NAME=DIR``.

    Raises:
        BadInput: no such folder, or a name twice.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        name, separator, folder = argument.partition("=")
        path = Path(folder if separator else argument).expanduser()
        name = name if separator else path.absolute().name
        if not path.is_dir():
            raise BadInput("offline", argument, "no such folder")
        if name in found:
            raise BadInput("offline", argument, f"{name} is there already: give NAME=DIR")
        found[name] = path
    return tuple(found.items())


def parse_batches(text: str) -> tuple[int, ...]:
    """Read ``1,8,32``.

    Raises:
        BadInput: not numbers, or out of range.
    """
    try:
        batches = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput("batch", text, "whole numbers separated by commas") from None
    if not all(1 <= batch <= MAX_BATCH for batch in batches):
        raise BadInput("batch", text, f"1 to {MAX_BATCH}")
    return batches
