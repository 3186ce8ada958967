"""What an engine has to show before it gets requests: that it computes, and computes the checkpoint.

- The golden prompt is answered twice, greedily: the same tokens, their log-probabilities finite. (The
  first answer is also the warm-up.)
- Prompt and answer are then scored at once: the log-probabilities are those that the tokens had when
  they were generated one by one from cached keys and values.
- Every tensor that the engine keeps as the checkpoint has it is compared with it, by hash. On a GPU that is
  all of them; on a CPU vLLM repacks the matrices of linear layers and leaves nothing to compare.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from google.rpc import code_pb2

from secateur.errors import BrokenCheckpoint
from secateur.serve.engine.engine import Engine
from secateur.serve.engine.stats import EngineCheckResult
from secateur.serve.engine.threads import in_thread
from secateur.serve.failures import RpcError

if TYPE_CHECKING:
    import torch

GOLDEN_PROMPT = "In the beginning there was a garden, and in the garden there was a tree. The gardener"
GOLDEN_TOKENS = 16
TOLERANCE = 0.5
"""Log-probabilities of one token, computed in two ways in bfloat16, differ by less than 0.1 (seen)."""

EMPTY_DIGEST = hashlib.sha256().hexdigest()
FUSED_TENSORS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Tensors that vLLM keeps as one: name -> those of the checkpoint, in their order."""

VOCABULARY_PADDING = 64
PADDED_TENSORS = ("embed_tokens.weight", "lm_head.weight")


async def check_engine(engine: Engine, folder: Path) -> EngineCheckResult:
    """Prove that an engine is fit for requests.

    Raises:
        RpcError: FAILED_PRECONDITION, saying what is wrong with it.
    """
    started = time.monotonic()
    answer, difference = await _check_golden_answer(engine)
    verified, repacked = await _check_weights(engine, folder)
    return EngineCheckResult(answer, difference, verified, repacked, time.monotonic() - started)


async def _check_golden_answer(engine: Engine) -> tuple[int, float]:
    """Return the length of the answer and the greatest difference to its score."""
    prompt = (await engine.tokenize(GOLDEN_PROMPT))[: max(1, engine.max_model_len - GOLDEN_TOKENS - 1)]
    room = min(GOLDEN_TOKENS, engine.max_model_len - len(prompt) - 1)
    if room < 1 or not prompt:
        return 0, 0.0
    first, second = [await engine.answer(prompt, room) for _ in range(2)]
    if not all(math.isfinite(logprob) for _, logprob in (*first, *second)):
        raise engine_unfit_error("log-probabilities of its answer to the golden prompt are not finite")
    if not answers_agree(first, second):
        raise engine_unfit_error("two greedy answers to the golden prompt differ")
    tokens = [token for token, _ in first]
    scored = (await engine.score([*prompt, *tokens]))[-len(tokens) :]
    differences = [abs(one - other) for one, (_, other) in zip(scored, first, strict=True)]
    difference = max(differences, key=lambda one: (math.isnan(one), one))
    if not difference <= TOLERANCE:  # true of NaN too
        raise engine_unfit_error(f"its answer scores {difference:.3g} off what it gave when it was generated")
    return len(tokens), difference


def answers_agree(one: list[tuple[int, float]], other: list[tuple[int, float]]) -> bool:
    """True if two greedy answers, as (token, log-probability), are the same up to a tie."""
    for (token, logprob), (token_too, logprob_too) in zip(one, other, strict=True):
        if abs(logprob - logprob_too) > TOLERANCE:
            return False
        if token != token_too:  # as likely as each other: from here on they may well differ
            return True
    return True


async def _check_weights(engine: Engine, folder: Path) -> tuple[int, int]:
    digests = await engine.weight_digests()
    if digests is None:
        return 0, 0
    wrong, verified, repacked = await in_thread(compare_weights, digests, folder, engine.dtype)
    if wrong:
        raise engine_unfit_error(f"its tensor {wrong[0]} is not that of the checkpoint ({len(wrong)} differ)")
    return verified, repacked


def compare_weights(digests: Mapping[str, str], folder: Path, dtype: str) -> tuple[list[str], int, int]:
    """Compare the hashes of an engine's tensors with the files it was loaded from.

    Args:
        digests: name -> SHA-256 of the tensor's bytes.
        folder: the checkpoint.
        dtype: of the engine's weights.

    Returns:
        The names of those that differ, how many are equal, and how many cannot be compared.
    """
    import torch

    from secateur.checkpoint.safetensors_file import open_safetensors

    try:
        stored = open_safetensors(folder).tensors()
    except BrokenCheckpoint:  # in a format that only vLLM reads
        return [], 0, len(digests)
    wrong, verified = [], 0
    for name, digest in digests.items():
        parts = [stored.get(part) for part in _stored_names(name)]
        if digest == EMPTY_DIGEST or any(part is None for part in parts):
            continue
        whole = torch.cat([part.to(getattr(torch, dtype)) for part in parts if part is not None])
        if digest == _digest(_padded(name, whole)):
            verified += 1
        else:
            wrong.append(name)
    return wrong, verified, len(digests) - verified - len(wrong)


def _stored_names(name: str) -> list[str]:
    """The checkpoint's names of what the engine keeps under one name."""
    for fused, parts in FUSED_TENSORS.items():
        if f".{fused}." in name:
            return [name.replace(f".{fused}.", f".{part}.") for part in parts]
    return [name]


def _padded(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Fill up the vocabulary with rows of zeros, as vLLM does."""
    from torch.nn.functional import pad

    missing = -tensor.shape[0] % VOCABULARY_PADDING
    return pad(tensor, (0, 0, 0, missing)) if missing and name.endswith(PADDED_TENSORS) else tensor


def _digest(tensor: torch.Tensor) -> str:
    import torch

    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()


def engine_unfit_error(message: str) -> RpcError:
    """Return the refusal of an engine that does not compute what it should."""
    return RpcError(
        code_pb2.FAILED_PRECONDITION, "ENGINE_UNFIT", f"the engine is not fit to serve: {message}"
    )
