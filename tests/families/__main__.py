"""Check every family from end to end: ``python -m tests.families WORK``; stop and start it again as you like.

Tiny random models by transformers' own configurations go through the command line, exports, transformers
without secateur, and vLLM. What is found is written to `RESULTS`: the table of docs/families.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import blake2b
from importlib.metadata import packages_distributions, version
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from secateur.checkpoint.export import export
from secateur.checkpoint.source import open_source
from secateur.model.decoder import DecoderModel
from secateur.model.forward import forward_context, hidden_states
from tests.checkpoint.test_export import slim_of
from tests.conftest import FAMILIES, save_tiny, trained_tokenizer
from tests.families.page import RESULTS, SHAPES
from tests.families.resume import killed_and_resumed_is_the_same
from tests.families.served import TOKENS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for models and what was found of them")
    parser.add_argument("--families", nargs="*", default=FAMILIES)
    arguments = parser.parse_args()
    tokenizer = trained_tokenizer("\n\n".join(topics[name] for name in sorted(topics)))
    found: dict[str, dict[str, Any]] = {}
    for family in arguments.families:
        work = arguments.work / family
        if not (work / "dense").is_dir():
            save_tiny(work / "dense", tokenizer, family)
        found[family] = {"resume": "not run", **_once(work, "exported", _exported)}
        print(family, json.dumps(found[family]), flush=True)
    folders = [arguments.work / family / name for family in found for name in ("dense", *SHAPES)]
    missing = [str(folder) for folder in folders if not _served_file(folder).is_file()]
    if missing:
        subprocess.run([sys.executable, "-m", "tests.families.served", *missing], check=False)
    for family, cells in found.items():
        cells["vllm"] = {name: _served(arguments.work / family / name) for name in ("dense", *SHAPES)}
    _write(found)
    for family, cells in found.items():
        cells["resume"] = _once(arguments.work / family, "resume", _resume)
        print(family, cells["resume"], flush=True)
        _write(found)


def _write(found: dict[str, dict[str, Any]]) -> None:
    packages = packages_distributions()  # vLLM for CPUs has another name
    versions = {name: version(packages[name][0]) for name in ("torch", "transformers", "vllm")}
    RESULTS.write_text(json.dumps({"versions": versions, "families": found}, indent=1) + "\n")


def _once(work: Path, name: str, find: Callable[[Path], Any]) -> Any:
    """What was found, kept in a file: a run that is started again goes on."""
    record = work / f"{name}.json"
    if not record.is_file():
        record.write_text(json.dumps(find(work)))
    return json.loads(record.read_text())


def _resume(work: Path) -> str:
    """Whether a prune that was killed and started again gave the weights of one that was not."""
    return "yes" if killed_and_resumed_is_the_same(work / "dense", work / "jobs") else "no"


def _exported(work: Path) -> dict[str, Any]:
    """How far the engine is from transformers: logits of the dense model, losses of slim ones.

    A slim model that transformers does not open without secateur is not exported: `export` raises.
    """
    dense = open_source(work / "dense").load_model()
    judge = AutoModelForCausalLM.from_pretrained(work / "dense", dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = judge(torch.tensor([TOKENS])).logits[0]
    _expect(work / "dense", dense)
    cells: dict[str, Any] = {"opens": float((_logits(dense) - logits).abs().max() / logits.abs().max())}
    for name, shape in SHAPES.items():
        slim, source = slim_of(work / "dense", shape)
        shutil.rmtree(work / name, ignore_errors=True)
        verified = export(slim, source, work / name, None, torch.float32)
        _expect(work / name, slim)
        model_type = json.loads((work / name / "config.json").read_text())["model_type"]
        cells[name] = {
            "model_type": model_type,
            "loss_difference": abs(verified.loss - verified.engine_loss),
        }
    return cells


def _logits(model: DecoderModel) -> torch.Tensor:
    with torch.inference_mode():
        context = forward_context(model, len(TOKENS))
        return (hidden_states(model, torch.tensor([TOKENS]), context) @ model.head_VH.T)[0]


def _expect(folder: Path, model: DecoderModel) -> None:
    """Keep the engine's log-probabilities beside a checkpoint."""
    wanted = _logits(model).log_softmax(-1)[:-1].gather(1, torch.tensor(TOKENS)[1:, None])[:, 0]
    folder.with_suffix(".engine.json").write_text(json.dumps(wanted.tolist()))


def _served_file(folder: Path) -> Path:
    """What vLLM said of these weights."""
    weights = blake2b((folder / "model.safetensors").read_bytes(), digest_size=8).hexdigest()
    return folder.with_suffix(f".vllm-{weights}.json")


def _served(folder: Path) -> float | str:
    """The largest difference of log-probabilities, or why vLLM refuses."""
    file = _served_file(folder)
    if not file.is_file():
        return "not run"
    answer = json.loads(file.read_text())
    if "error" in answer:
        return str(answer["error"])
    wanted = json.loads(folder.with_suffix(".engine.json").read_text())
    return max(abs(one - other) for one, other in zip(answer["logprobs"], wanted, strict=True))


if __name__ == "__main__":
    main()
