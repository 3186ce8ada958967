"""Models run by lm-evaluation-harness through transformers, on tasks that lie here.

Metrics and standard errors are lm-eval's. Weights and products are in the model's dtype; the head and what
follows it in fp32, at the positions that can be asked for alone (a vocabulary of logits for every token of a
prompt would cost as much as the model).

Shape suffixes: B rows, T tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from secateur.calibrate.corpus import load_corpus
from secateur.checkpoint.transformers_module import transformers_module
from secateur.config.evaluate import MMLU
from secateur.errors import BackendUnavailable, BadInput
from secateur.evaluation.tasks import mmlu
from secateur.evaluation.tasks.passages import ENDINGS, passage_config, require_examples
from secateur.model.decoder import DecoderModel
from secateur.progress import ProgressReporter

BATCH = 8
Data = dict[str, list[dict[str, object]]]


@dataclass(frozen=True)
class LmEvalTask:
    """A task as the user named it, in parts that lm-eval runs one by one.

    Attributes:
        chance: accuracy of guessing; None where guessing gets nothing.
        parts: configuration and data (rows by split) of each.
    """

    name: str
    chance: float | None
    parts: Sequence[tuple[dict[str, object], Data]]


def load_tasks(names: Sequence[str], data: Path | None) -> tuple[LmEvalTask, ...]:
    """The tasks of those names, which `EvaluateOptions` has checked.

    Args:
        data: folder of the tasks that come as files, MMLU.

    Raises:
        BackendUnavailable: lm-eval is not installed.
        BadInput: the data of one is not there or not what it should be.
    """
    if find_spec("lm_eval") is None:
        raise BackendUnavailable(
            "`tasks`: lm-eval is not installed: pip install '.[tasks]' in a checkout of secateur"
        )
    return tuple(_task(name, data) for name in names)


def run_tasks(
    model: DecoderModel,
    tokenizer: Any,
    tasks: Sequence[LmEvalTask],
    limit: int | None,
    title: str,
    reporter: ProgressReporter,
) -> dict[str, dict[str, Any]]:
    """Accuracy of a model by task, with standard error, chance and number of examples.

    Args:
        model: in the dtype to compute in.
        limit: examples of each task at most, of MMLU of each subject; None takes all.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager
    from tqdm import tqdm

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    built = [_build(task) for task in tasks]
    loaded = TaskManager(include_defaults=False).load(built)
    language_model = _language_model(model, tokenizer, title, reporter)
    # lm-eval draws a bar per subject even where there is no terminal.
    with torch.inference_mode(), patch("lm_eval.api.task.tqdm", partial(tqdm, disable=True)):
        results = evaluate(language_model, loaded, limit=limit, log_samples=False)
    scores = {**results["results"], **results.get("groups", {})}
    counts = results["n-samples"]
    return {task.name: _result(task, scores[task.name], counts) for task in tasks}


def _task(name: str, data: Path | None) -> LmEvalTask:
    kind, _, corpus = name.partition(":")
    if name == MMLU:
        subjects = mmlu.load_mmlu(data)
        return LmEvalTask(
            name, mmlu.CHANCE_ACCURACY, [(mmlu.subject_config(each), each.rows()) for each in subjects]
        )
    try:
        text = load_corpus(corpus)
    except BadInput as error:
        raise BadInput("tasks", name, error.allowed) from error
    rows = [example.row() for example in require_examples(kind, text)]
    chance = 1 / ENDINGS if kind == "ending" else None
    return LmEvalTask(name, chance, [(passage_config(kind, name), {"test": rows})])


def _build(task: LmEvalTask) -> Any:
    """The task as lm-eval's objects; one of several parts as a group with the mean over them."""
    from lm_eval.api.group import Group
    from lm_eval.config.group import AggMetricConfig

    if len(task.parts) == 1 and task.parts[0][0]["task"] == task.name:
        return _lm_eval_task(*task.parts[0])
    group = Group(task.name, aggregate_metric_list=[AggMetricConfig("acc", weight_by_size=False)])
    for config, data in task.parts:
        group.add(_lm_eval_task(config, data))
    return group


def _lm_eval_task(config: Mapping[str, object], data: Data) -> Any:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    splits = {split: Dataset.from_list(rows) for split, rows in data.items()}
    return ConfigurableTask(config={**config, "custom_dataset": lambda **_: splits})


def _result(
    task: LmEvalTask, result: Mapping[str, Any], counts: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    parts = [str(config["task"]) for config, _ in task.parts]
    document = {
        "accuracy": result["acc,none"],
        "stderr": _number(result.get("acc_stderr,none")),
        "chance": task.chance,
        "examples": sum(counts[part]["effective"] for part in parts),
    }
    if "acc_norm,none" in result:
        document["accuracy_by_length"] = result["acc_norm,none"]
        document["accuracy_by_length_stderr"] = _number(result.get("acc_norm_stderr,none"))
    if len(parts) > 1:
        document["subjects"] = len(parts)
    return document


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _language_model(model: DecoderModel, tokenizer: Any, title: str, reporter: ProgressReporter) -> Any:
    """Our model as one of lm-eval's."""
    from lm_eval.models.huggingface import HFLM

    class LanguageModel(HFLM):
        """lm-eval's transformers model; only the end of every row is brought to the vocabulary."""

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests: Any, *_: Any, **options: Any) -> Any:
            self._longest = max(len(continuation) for _, _, continuation in requests)
            rows = {(*context, *continuation[:-1]) for _, context, continuation in requests}
            reporter.stage(title, len(rows))
            return super()._loglikelihood_tokens(requests, disable_tqdm=True)

        def _model_call(self, inps: Tensor, *_: Any, **__: Any) -> Tensor:
            hidden_BTH = self.model.model(inps, use_cache=False).last_hidden_state
            head_VH = self.model.lm_head.weight
            first = _first_needed(inps, self._longest)
            reporter.step(count=len(inps))
            # lm-eval takes what is missing in front for context that it does not ask about.
            read_BTH = hidden_BTH[:, first:].float() * model.multipliers.logits
            return functional.linear(read_BTH, head_VH.float())

    return LanguageModel(
        pretrained=transformers_module(model),
        tokenizer=tokenizer,
        backend="causal",
        batch_size=BATCH,
        softmax_dtype="float32",
    )


def _first_needed(tokens_BT: Tensor, longest: int) -> int:
    """The first position whose logits may be asked for, rows being padded on the right with zeros.

    A row that ends in real zeros looks shorter than it is, which makes the answer too small, never too large.
    """
    columns_T = torch.arange(1, tokens_BT.shape[1] + 1, device=tokens_BT.device)
    shortest = int((columns_T * (tokens_BT != 0)).amax(1).min())
    return max(0, shortest - longest)
