"""The options of `secateur recover`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secateur.config.device import DEVICE_HELP, parse_device
from secateur.config.option import check, option
from secateur.config.prune import is_corpus_file, is_model_path
from secateur.config.values import AUTO
from secateur.errors import BadInput

BUDGET, TEXT, TRAINING, MACHINE = "Budget", "Text", "Training", "Machine"

SCALES, LAST, LORA, FULL = "scales", "last", "lora", "full"
TRAINED = (SCALES, LAST, LORA, FULL)  # in rising freedom
SCHEDULES = ("cosine", "constant")
DEFAULT_MINUTES = 10.0


@dataclass(frozen=True)
class RecoverOptions:
    """What to recover, on what text, and how much to spend on it.

    Raises:
        BadInput: naming the option that is out of its range, or does not fit the others.
    """

    model: str = option(
        help="Slim checkpoint: a folder.", positional=True, metavar="SLIM", is_path=is_model_path
    )
    out: Path = option(help="The checkpoint folder to make; must not exist.", is_path=True)
    dense: str | None = option(
        None,
        help="Dense model to learn from.",
        default_help="the one that SLIM was cut from",
        is_path=is_model_path,
    )
    minutes: float | None = option(
        None,
        help="Train for so long, validation included; what comes before and after is not counted.",
        group=BUDGET,
        above=0,
        default_help=f"{DEFAULT_MINUTES:g}, unless `tokens` or `steps` is given",
    )
    tokens: int | None = option(None, help="Train on so many tokens.", group=BUDGET, min_value=1)
    steps: int | None = option(None, help="Train for so many steps.", group=BUDGET, min_value=1)
    corpus: tuple[str, ...] = option(
        ("pydoc",),
        help="Text to train on, comma-separated: files (text, JSON Lines, Parquet, chats), folders, pydoc, "
        "or self (the dense model writes it).",
        group=TEXT,
        is_path=is_corpus_file,
    )
    validation: tuple[str, ...] = option(
        (),
        help="Text that chooses among the steps.",
        group=TEXT,
        default_help="a held-back part of `corpus`",
        is_path=is_corpus_file,
    )
    window: int = option(
        256,
        help="Tokens per window.",
        group=TEXT,
        min_value=2,
        allowed="a window needs at least 2 tokens",
    )
    validation_windows: int = option(16, help="Windows of validation text, at most.", group=TEXT, min_value=1)
    self_tokens: int = option(
        32_768, help="Tokens that the dense model writes for `corpus` self.", group=TEXT, min_value=1024
    )
    train: str = option(
        FULL,
        help="What is trained: scales (a factor for each channel, KV group and output), last (the last "
        "projection of each sub-block), lora (a low rank of every projection) or full (all weights of the "
        "layers). Norms always are.",
        group=TRAINING,
        choices=TRAINED,
    )
    learning_rate: float | None = option(
        None,
        help="The highest learning rate.",
        group=TRAINING,
        above=0,
        max_value=1,
        default_help="by what is trained and how much was cut",
    )
    schedule: str = option(
        "cosine",
        help="cosine, or constant: it falls in the last fifth only. Both rise at first.",
        group=TRAINING,
        choices=SCHEDULES,
    )
    batch: int = option(4, help="Windows per step.", group=TRAINING, min_value=1)
    rank: int = option(
        16, help="Rank of each projection's change, for `train` lora.", group=TRAINING, min_value=1
    )
    seed: int = option(
        0,
        help="Seed of everything random.",
        group=TRAINING,
        min_value=0,
        allowed="a number from 0 up",
    )
    device: str = option(AUTO, help=DEVICE_HELP, group=MACHINE, parse=parse_device)

    def __post_init__(self) -> None:
        check(self)
        given = [name for name in ("minutes", "tokens", "steps") if getattr(self, name) is not None]
        if len(given) > 1:
            raise BadInput(given[1], getattr(self, given[1]), f"`{given[0]}` says already how long")
        if not given:
            object.__setattr__(self, "minutes", DEFAULT_MINUTES)

    @property
    def state_folder(self) -> Path:
        """Where an interrupted run keeps what it needs to go on."""
        return self.out.with_name(f"{self.out.name}.recovery")
