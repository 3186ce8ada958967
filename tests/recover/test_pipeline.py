"""The whole job on tiny models: what comes out is better, loads anywhere, and the input is as it was."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from secateur.checkpoint.source import open_source
from secateur.config.recover import TRAINED, RecoverOptions
from secateur.errors import BadInput, OutputFailed, SecateurError
from secateur.model.architecture import Architecture
from secateur.model.decoder import architecture_of
from secateur.progress import SilentReporter
from secateur.recover import pipeline, training
from secateur.recover.pipeline import recover
from tests.recover.conftest import MIXED, UNIFORM

LOADS = """
import json, sys, torch
from transformers import AutoModelForCausalLM
assert "secateur" not in sys.modules
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, trust_remote_code=True).eval()
with torch.inference_mode():
    print(json.dumps(model(torch.tensor([json.loads(sys.argv[2])])).logits[0, -1].tolist()))
"""


def run(slim: Path, out: Path, small: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return recover(RecoverOptions(model=str(slim), out=out, **{**small, **changes}), SilentReporter())


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("train", TRAINED)
def test_recovers(slim_llama: Path, tmp_path: Path, small: dict[str, Any], train: str) -> None:
    before = content(slim_llama)
    record = run(slim_llama, tmp_path / "out", small, train=train, learning_rate=5e-3)
    told = record["recovery"]
    assert told["kl"] < told["input"]["kl"] and told["best_step"] > 0
    assert told["tokens"] == 12 * 4 * 32 and len(told["losses"]) == 12
    assert content(slim_llama) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out"]
    source = open_source(tmp_path / "out")
    assert architecture_of(source.load_model()) == MIXED
    assert json.loads((tmp_path / "out" / "secateur.json").read_text()) == record
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"recovered with {told['tokens']:,} tokens" in card and small["corpus"][0] in card
    assert "No training" not in card


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "kind"), [(MIXED, "secateur"), (UNIFORM, "llama")])
def test_loads_in_plain_transformers(
    tiny_llama: Path,
    cut: Callable[..., Path],
    tmp_path: Path,
    small: dict[str, Any],
    shape: Architecture,
    kind: str,
) -> None:
    """In a process of its own, which does not know of Secateur."""
    out = tmp_path / "out"
    record = run(cut(tiny_llama, shape), out, small)
    assert json.loads((out / "config.json").read_text())["model_type"] == kind
    assert abs(record["verified"]["loss"] - record["verified"]["engine_loss"]) < 5e-4
    tokens = list(range(5, 25))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", LOADS, str(out), json.dumps(tokens)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    from secateur.model.forward import forward_context, hidden_states

    model = open_source(out).load_model()
    with torch.no_grad():
        hidden = hidden_states(model, torch.tensor([tokens]), forward_context(model, len(tokens)))[0, -1]
    found = torch.tensor(json.loads(done.stdout))
    assert float((found - hidden @ model.head_VH.T).abs().max()) < 2e-5 * float(found.abs().max())


def test_never_worse_than_the_input(
    tiny_llama: Path, cut: Callable[..., Path], tmp_path: Path, small: dict[str, Any]
) -> None:
    """Little was cut, and the rate only does damage: the weights are the input's."""
    slim = cut(tiny_llama, Architecture((2, 2, 2), (192, 192, 191)))
    record = run(slim, tmp_path / "out", small, learning_rate=1.0)
    assert record["recovery"]["best_step"] == 0
    assert min(each["kl"] for each in record["recovery"]["validated"][1:]) > record["recovery"]["kl"]
    before, after = (load_file(folder / "model.safetensors") for folder in (slim, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_dense_model_has_nothing_to_learn(
    tiny_llama: Path, cut: Callable[..., Path], tmp_path: Path, small: dict[str, Any]
) -> None:
    dense = open_source(tiny_llama)
    whole = cut(tiny_llama, architecture_of(dense.load_model()))
    record = run(whole, tmp_path / "out", small)
    assert max(record["recovery"]["losses"]) < 1e-9 and record["recovery"]["best_step"] == 0


def test_pieces_of_a_step_add_up(slim_llama: Path, tmp_path: Path, small: dict[str, Any]) -> None:
    """The gradient of a batch is that of its pieces."""
    options = RecoverOptions(model=str(slim_llama), out=tmp_path / "out", **small)
    models = pipeline.open_models(options, SilentReporter())
    plan = pipeline.plan_recovery(models.slim, models.dense, options, models.compute)
    text = pipeline.read_recovery_text(options, models, SilentReporter())
    found = []
    for piece in (4, 3, 1):
        run = pipeline.training_of(options, models, text, plan)
        run.piece = piece
        loss = float(run.gradients(torch.tensor([3, 0, 7, 5])))
        found.append((loss, {name: value.grad for name, value in run.trained.parameters.items()}))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        for name, gradient in gradients.items():
            whole = found[0][1][name]
            assert gradient is not None and whole is not None
            assert float((gradient - whole).abs().max()) <= 1e-4 * float(whole.abs().max())


def test_a_loss_that_is_no_number(
    slim_llama: Path, tmp_path: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that training drives out of fp32."""
    monkeypatch.setattr(training, "CLIP", math.inf)
    monkeypatch.setattr(training, "factor", lambda schedule, spent: 1e18)
    before = content(slim_llama)
    with pytest.raises(SecateurError, match=r"`learning_rate` 0.002: the loss at step .* is .*: try a lower"):
        run(slim_llama, tmp_path / "out", small)
    assert list(tmp_path.iterdir()) == [] and content(slim_llama) == before


@pytest.mark.parametrize("place", ["state", "checkpoint"])
def test_a_full_disk(
    slim_llama: Path, tmp_path: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from safetensors import SafetensorError

    def full(*args: object, **more: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    if place == "state":
        monkeypatch.setattr("secateur.recover.state.save_file", full)
    else:
        monkeypatch.setattr("secateur.checkpoint.export.save_torch_state_dict", full)
    before = content(slim_llama)
    with pytest.raises(OutputFailed, match="No space left on device"):
        run(slim_llama, tmp_path / "out", small)
    assert not (tmp_path / "out").exists() and content(slim_llama) == before


def test_no_room_is_said_before_training(
    slim_llama: Path, tmp_path: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.recover.plan.available_bytes", lambda: 100_000_000)
    with pytest.raises(BadInput, match=r"train: got full: .* GB are needed, 0\.1 GB are free"):
        run(slim_llama, tmp_path / "out", small)


def test_a_stranger_is_no_teacher(
    slim_llama: Path, make_tiny: Callable[..., Path], tmp_path: Path, small: dict[str, Any]
) -> None:
    stranger = make_tiny("llama", hidden_size=64, head_dim=32)
    with pytest.raises(BadInput, match=r"dense: got .* not its dense model"):
        run(slim_llama, tmp_path / "out", small, dense=str(stranger))


def test_without_a_dense_model(
    slim_llama: Path, editable: Callable[[Path], Path], tmp_path: Path, small: dict[str, Any]
) -> None:
    alone = editable(slim_llama)
    (alone / "secateur.json").unlink()
    with pytest.raises(BadInput, match="dense: got nothing: name the model that SLIM was cut from"):
        run(alone, tmp_path / "out", small)


def test_lineage_without_a_record(
    slim_llama: Path,
    tiny_llama: Path,
    editable: Callable[[Path], Path],
    tmp_path: Path,
    small: dict[str, Any],
) -> None:
    alone = editable(slim_llama)
    (alone / "secateur.json").unlink()
    record = run(alone, tmp_path / "out", small, dense=str(tiny_llama))
    assert record["model"]["fingerprint"] == open_source(tiny_llama).fingerprint
    again = run(tmp_path / "out", tmp_path / "twice", small)  # finds the dense model by that record
    assert again["model"] == record["model"]


def test_text_of_the_model_itself(slim_llama: Path, tmp_path: Path, small: dict[str, Any]) -> None:
    record = run(slim_llama, tmp_path / "out", small, corpus=("self",), self_tokens=2048)
    assert record["recovery"]["texts"]["self"]["tokens"] >= 1024
    assert not (tmp_path / "out.recovery").exists()


def test_bf16_products_from_fp32_weights(
    slim_llama: Path, tmp_path: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from secateur.model.compute import Compute

    monkeypatch.setattr(pipeline, "choose_compute", lambda *_: Compute.on_cpu(torch.bfloat16))
    record = run(slim_llama, tmp_path / "out", small, learning_rate=5e-3)
    assert record["recovery"]["kl"] < record["recovery"]["input"]["kl"]


def test_minutes_end(slim_llama: Path, tmp_path: Path, small: dict[str, Any]) -> None:
    record = run(slim_llama, tmp_path / "out", {**small, "steps": None}, minutes=0.02)
    assert record["recovery"]["steps"] > 1 and record["recovery"]["best_step"] > 0


def test_a_question_is_kept_out_of_what_the_model_writes(
    slim_llama: Path, tmp_path: Path, small: dict[str, Any]
) -> None:
    changes = {"corpus": ("self",), "self_tokens": 2048}
    options = RecoverOptions(model=str(slim_llama), out=tmp_path / "out", **{**small, **changes})
    models = pipeline.open_models(options, SilentReporter())
    (tmp_path / "out.recovery").mkdir()
    decode = models.source.tokenizer().decode

    def said(*left_out: str) -> str:
        text = pipeline.read_recovery_text(options, models, SilentReporter(), left_out)
        return decode(torch.cat([text.training_WT, text.validation_WT]).flatten())

    phrase = said().split("\n\n")[3][2:8]
    assert phrase in said() and phrase not in said(phrase)
