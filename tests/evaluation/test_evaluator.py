"""The prefix evaluator against the plain way: cut the model, run transformers, compare whole logits.

Proven: KL and NLL of random architectures are those of the judge; results are the same to the bit
in any order, any grouping and with any memory for states; the dense architecture has KL zero.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.configuration_secateur import slim_config
from secateur.checkpoint.modeling_secateur import SecateurForCausalLM
from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.evaluation.measurement import Measurement
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel, named_tensors
from secateur.model.processor import fastest_dtype
from secateur.prune.surgery import build_slim_model
from secateur.space.space import Space


def random_architectures(space: Space, count: int, seed: int = 0) -> list[Architecture]:
    chance = random.Random(seed)
    layers = range(space.dense.num_layers)
    return [
        Architecture(
            tuple(chance.choice(space.widths(layer, "attention")) for layer in layers),
            tuple(chance.choice(space.widths(layer, "ffn")) for layer in layers),
        )
        for _ in range(count)
    ]


def logits_of_transformers(model: DecoderModel, folder: Path, shape: Architecture, tokens: Tensor) -> Tensor:
    """Log-probabilities in fp64 of the model, as transformers' classes compute them."""
    judge: torch.nn.Module
    if shape == Architecture((2, 2, 2), (192, 192, 192)):
        judge = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        config = slim_config(model.config, shape.groups, shape.channels)
        judge = SecateurForCausalLM(config)
        missing, unexpected = judge.load_state_dict(named_tensors(model), strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}
        if model.tied:
            judge.lm_head.weight = judge.model.embed_tokens.weight
    with torch.inference_mode():
        return torch.log_softmax(judge.eval()(tokens).logits[:, :-1].double(), -1)


def judged(library: BlockLibrary, folder: Path, shape: Architecture, tokens: Tensor) -> tuple[float, float]:
    """KL to the dense model and NLL, by the definitions."""
    dense = Architecture((2, 2, 2), (192, 192, 192))
    log_p = logits_of_transformers(library.master, folder, dense, tokens)
    log_q = logits_of_transformers(build_slim_model(library, shape), folder, shape, tokens)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    nll = -log_q.gather(-1, tokens[:, 1:, None]).mean()
    return float(kl), float(nll)


def measure(
    library: BlockLibrary, windows: Tensor, candidates: Sequence[Architecture], **options: int
) -> dict[Architecture, Measurement]:
    return dict(PrefixEvaluator(library, windows, **options).evaluate(candidates))


def test_equals_cutting_and_running_transformers(
    tiny_model: Path, library_of: Callable[..., BlockLibrary], space: Space, windows: Tensor
) -> None:
    library = library_of(tiny_model)
    candidates = [*random_architectures(space, 5), Architecture((1, 0, 0), (0, 64, 0))]
    found = measure(library, windows, candidates)
    assert len(found) == len(set(candidates))
    for candidate, measurement in found.items():
        kl, nll = judged(library, tiny_model, candidate, windows)
        assert measurement.kl == pytest.approx(kl, rel=1e-3, abs=1e-5)
        assert measurement.nll == pytest.approx(nll, rel=1e-4)
        assert measurement.tokens == windows.shape[0] * (windows.shape[1] - 1)


def test_bf16_stays_near_fp32(
    tiny_llama: Path,
    library: BlockLibrary,
    library_of: Callable[..., BlockLibrary],
    space: Space,
    windows: Tensor,
) -> None:
    """Whatever the machine searches in, the ranking signal is that of the exact model."""
    fast = BlockLibrary(library.master, library._repairs, torch.bfloat16)
    candidates = random_architectures(space, 6, seed=2)
    exact, rounded = measure(library, windows, candidates), measure(fast, windows, candidates)
    for candidate in exact:
        assert rounded[candidate].kl == pytest.approx(exact[candidate].kl, rel=0.05, abs=5e-3)
        assert rounded[candidate].nll == pytest.approx(exact[candidate].nll, rel=0.02)


class TestDense:
    @pytest.mark.parametrize("dtype", [torch.float32, fastest_dtype()], ids=["fp32", "fast"])
    def test_kl_is_exactly_zero(
        self, dtype: torch.dtype, library: BlockLibrary, space: Space, windows: Tensor
    ) -> None:
        fast = BlockLibrary(library.master, library._repairs, dtype)
        others = random_architectures(space, 3)
        found = measure(fast, windows, [*others, space.dense])[space.dense]
        assert found.kl == 0.0 and found.kl_stderr == 0.0

    def test_nll(self, library: BlockLibrary, space: Space, windows: Tensor, tiny_llama: Path) -> None:
        evaluator = PrefixEvaluator(library, windows)
        _, nll = judged(library, tiny_llama, space.dense, windows)
        assert evaluator.dense_nll == pytest.approx(nll, rel=1e-5)
        assert dict(evaluator.evaluate([space.dense]))[space.dense].nll == pytest.approx(nll, rel=1e-5)


@pytest.fixture(scope="module", params=[torch.float32, fastest_dtype()], ids=["fp32", "fast"])
def fast(request: pytest.FixtureRequest, library: BlockLibrary) -> BlockLibrary:
    return BlockLibrary(library.master, library._repairs, request.param)


@pytest.fixture(scope="module")
def candidates(space: Space) -> list[Architecture]:
    """Some that share prefixes, some that share nothing."""
    some = random_architectures(space, 5, seed=3)
    return some + [shape.with_width(2, "ffn", 96) for shape in some[:3]] + [space.dense]


@pytest.fixture(scope="module")
def expected(
    fast: BlockLibrary, candidates: list[Architecture], windows: Tensor
) -> dict[Architecture, Measurement]:
    return measure(fast, windows, candidates)


class TestIndependence:
    """Bitwise: a candidate's value is its own."""

    def test_of_order(
        self,
        fast: BlockLibrary,
        candidates: list[Architecture],
        windows: Tensor,
        expected: dict[Architecture, Measurement],
    ) -> None:
        for seed in range(3):
            shuffled = random.Random(seed).sample(candidates, len(candidates))
            assert measure(fast, windows, shuffled) == expected

    def test_of_company(
        self,
        fast: BlockLibrary,
        candidates: list[Architecture],
        windows: Tensor,
        expected: dict[Architecture, Measurement],
    ) -> None:
        alone = {shape: measure(fast, windows, [shape])[shape] for shape in candidates}
        assert alone == expected
        evaluator = PrefixEvaluator(fast, windows)
        one_by_one = {shape: dict(evaluator.evaluate([shape]))[shape] for shape in candidates}
        assert one_by_one == expected

    @pytest.mark.parametrize("share", [0, 1, 2, 5, 100])
    def test_of_memory(
        self,
        share: int,
        fast: BlockLibrary,
        candidates: list[Architecture],
        windows: Tensor,
        expected: dict[Architecture, Measurement],
    ) -> None:
        """From no kept state to all of them."""
        state = windows.numel() * 128 * fast.model.dtype.itemsize
        assert measure(fast, windows, candidates, state_bytes=1 + share * state) == expected

    def test_of_duplicates(
        self,
        fast: BlockLibrary,
        candidates: list[Architecture],
        windows: Tensor,
        expected: dict[Architecture, Measurement],
    ) -> None:
        assert measure(fast, windows, [*candidates, *candidates]) == expected

    def test_of_an_abandoned_round(
        self,
        fast: BlockLibrary,
        candidates: list[Architecture],
        windows: Tensor,
        expected: dict[Architecture, Measurement],
    ) -> None:
        evaluator = PrefixEvaluator(fast, windows)
        going = evaluator.evaluate(candidates)
        next(going)
        going.close()
        assert dict(evaluator.evaluate(candidates)) == expected


class TestSharing:
    def test_a_common_prefix_is_computed_once(
        self, library: BlockLibrary, space: Space, windows: Tensor
    ) -> None:
        evaluator = PrefixEvaluator(library, windows)
        assert evaluator.dense_nll > 0  # the teacher's own pass
        before = evaluator.sub_blocks_run
        candidates = [space.dense.with_width(2, "ffn", width) for width in (32, 64, 96, 128)]
        list(evaluator.evaluate(candidates))
        assert evaluator.sub_blocks_run - before == evaluator.num_chunks * len(candidates)

    def test_no_memory_means_no_sharing(self, library: BlockLibrary, space: Space, windows: Tensor) -> None:
        evaluator = PrefixEvaluator(library, windows, state_bytes=1)
        assert evaluator.dense_nll > 0
        before = evaluator.sub_blocks_run
        list(evaluator.evaluate([space.dense.with_width(2, "ffn", width) for width in (32, 64)]))
        assert evaluator.sub_blocks_run - before == evaluator.num_chunks * 12


class TestStandardErrors:
    def test_over_windows(self, library: BlockLibrary, space: Space, windows: Tensor) -> None:
        candidate = random_architectures(space, 1)[0]
        whole = measure(library, windows, [candidate])[candidate]
        each = [measure(library, window[None], [candidate])[candidate] for window in windows]
        kl = torch.tensor([one.kl for one in each], dtype=torch.float64)
        assert whole.kl == pytest.approx(float(kl.mean()), rel=1e-5)
        assert whole.kl_stderr == pytest.approx(float(kl.std()) / math.sqrt(len(kl)), rel=1e-4)
        assert all(one.kl_stderr == one.nll_stderr == 0.0 for one in each)
