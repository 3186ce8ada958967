"""A calibration folder counts once it is whole, and gives the same orders and repairs every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from secateur.calibrate.calibration import Calibration, CalibrationConfig, calibrate, is_complete
from secateur.calibrate.criteria import CRITERIA
from secateur.calibrate.repairs import Repairs
from secateur.checkpoint.source import open_source
from secateur.errors import OutputFailed
from secateur.model.compute import Compute
from secateur.model.decoder import DecoderModel
from secateur.model.units import expand_units, last_projection, unit_span

CPU = torch.device("cpu")
WINDOWS = torch.randint(2, 300, (20, 24), generator=torch.Generator().manual_seed(0))


def load(folder: Path) -> DecoderModel:
    source = open_source(folder)
    return source.load_model()


@pytest.fixture
def model(tiny_llama: Path) -> DecoderModel:
    return load(tiny_llama)


def same(one: Repairs, other: Repairs) -> bool:
    left, right = one.tensors("x"), other.tensors("x")
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def run(model: DecoderModel, folder: Path, recipe: CalibrationConfig | None = None) -> Calibration:
    list(calibrate(model, WINDOWS, folder, recipe or CalibrationConfig()))
    return Calibration(folder)


def test_orders_and_repairs_of_every_sub_block(model: DecoderModel, tmp_path: Path) -> None:
    grams = {
        (gram.layer, gram.kind): gram
        for gram in calibrate(model, WINDOWS, tmp_path / "c", CalibrationConfig())
    }
    found = Calibration(tmp_path / "c")
    assert list(found.repairs) == list(found.orders) == list(grams)
    assert len(found.repairs) == 6
    for key, gram in grams.items():
        order = found.orders[key]
        assert sorted(order.tolist()) == list(range(model.width(*key)))
        weight, span = last_projection(model.layers[key[0]].sub_block(key[1])), unit_span(model, key[1])
        expected = Repairs.fit(weight, gram.gram_NN, expand_units(order, span), 0.01, span)
        assert same(found.repairs[key], expected)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion(criterion: str, model: DecoderModel, tmp_path: Path) -> None:
    found = run(model, tmp_path / "c", CalibrationConfig(criterion))
    assert sorted(found.orders[2, "ffn"].tolist()) == list(range(192))


def test_the_same_twice(model: DecoderModel, tmp_path: Path) -> None:
    first, second = run(model, tmp_path / "a"), run(model, tmp_path / "b")
    for key in first.orders:
        assert torch.equal(first.orders[key], second.orders[key])
        assert same(first.repairs[key], second.repairs[key])


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 6])
def test_an_interrupted_one_does_not_count(steps: int, model: DecoderModel, tmp_path: Path) -> None:
    going = calibrate(model, WINDOWS, tmp_path / "c", CalibrationConfig())
    for _ in range(steps):
        next(going)
    going.close()
    assert not is_complete(tmp_path / "c")


def test_a_whole_one_counts_and_leaves_no_temporary_file(model: DecoderModel, tmp_path: Path) -> None:
    run(model, tmp_path / "c")
    assert is_complete(tmp_path / "c")
    assert sorted(file.name for file in (tmp_path / "c").iterdir()) == [
        "calibration.json",
        *(f"layer-{layer:03d}.safetensors" for layer in range(3)),
    ]


def test_a_place_that_cannot_be_written(model: DecoderModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFailed, match="cannot be written"):
        next(calibrate(model, WINDOWS, tmp_path / "file" / "c", CalibrationConfig()))


def test_a_bf16_model(model: DecoderModel, tmp_path: Path) -> None:
    found = run(model.to(torch.bfloat16), tmp_path / "c")
    assert found.repairs[0, "ffn"].panels[0].inverse_QJ.dtype == torch.float32


def test_statistics_in_another_dtype_than_the_weights(model: DecoderModel, tmp_path: Path) -> None:
    """Activations are those of the converted model, repairs of the weights as they are stored."""
    slot, config, half = (1, "ffn"), CalibrationConfig(), torch.bfloat16
    converted = calibrate(model.to(half), WINDOWS, tmp_path / "a", config)
    grams = {(gram.layer, gram.kind): gram.gram_NN for gram in converted}
    list(calibrate(model, WINDOWS, tmp_path / "b", config, Compute(CPU, half)))
    found, weight = Calibration(tmp_path / "b"), last_projection(model.layers[1].ffn)
    assert same(found.repairs[slot], Repairs.fit(weight, grams[slot], found.orders[slot], 0.01))


def test_without_repair_units_are_ranked_all_the_same(model: DecoderModel, tmp_path: Path) -> None:
    found = run(model, tmp_path / "c", CalibrationConfig(repair=False))
    assert not found.repairs and is_complete(tmp_path / "c")
    assert torch.equal(found.orders[1, "ffn"], run(model, tmp_path / "d").orders[1, "ffn"])


def test_inside_inference_mode(model: DecoderModel, tmp_path: Path) -> None:
    """As the pipeline runs it; the same numbers."""
    plain = run(model, tmp_path / "a")
    with torch.inference_mode():
        inside = run(model, tmp_path / "b")
    assert same(plain.repairs[1, "ffn"], inside.repairs[1, "ffn"])


def test_taylor_sees_gradients(make_tiny: Callable[..., Path], tmp_path: Path) -> None:
    """The ranking is that of the scores of `taylor_scores` on the first windows."""
    from secateur.calibrate.calibration import TAYLOR_WINDOWS
    from secateur.calibrate.gradients import taylor_scores
    from secateur.model.forward import forward_context

    model = load(make_tiny("mistral", seed=4))
    found = run(model, tmp_path / "c", CalibrationConfig("taylor"))
    scores = taylor_scores(model, WINDOWS[:TAYLOR_WINDOWS], forward_context(model, 24))
    ranked: Tensor = scores[1, "ffn"][found.orders[1, "ffn"]]
    assert torch.equal(ranked, ranked.sort(descending=True).values)


def test_fisher_sees_gradients(make_tiny: Callable[..., Path], tmp_path: Path) -> None:
    """The ranking is that of the Fisher matrices of the first windows."""
    from secateur.calibrate.calibration import FISHER_WINDOWS
    from secateur.calibrate.criteria import SubBlockStats, obs_fisher
    from secateur.calibrate.gradients import fisher_matrices
    from secateur.calibrate.statistics import collect_grams
    from secateur.model.forward import forward_context

    model = load(make_tiny("qwen3", seed=4))
    context = forward_context(model, 24)
    found = run(model, tmp_path / "c", CalibrationConfig("obs-fisher"))
    matrices = fisher_matrices(model, WINDOWS[:FISHER_WINDOWS], context)
    for gram in collect_grams(model, WINDOWS, context):
        block = model.layers[gram.layer].sub_block(gram.kind)
        assert block is not None
        if gram.kind == "ffn":
            seen = SubBlockStats(
                block, last_projection(block), gram.gram_NN, 1, fisher_HH=matrices[gram.layer, "ffn"]
            )
            order = obs_fisher(seen, shrinkage=CalibrationConfig().shrinkage)
            assert torch.equal(order, found.orders[gram.layer, "ffn"])


@pytest.mark.parametrize("name", ["calibration.json", "layer-001.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[1]", b"null", b"\xff\xfe", None], ids=str)
def test_a_damaged_one_does_not_count(
    name: str, content: bytes | None, model: DecoderModel, tmp_path: Path
) -> None:
    """It is computed again: nothing in it is more than that."""
    run(model, tmp_path / "c")
    file = tmp_path / "c" / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert not is_complete(tmp_path / "c")
    file.unlink()
    assert not is_complete(tmp_path / "c")
