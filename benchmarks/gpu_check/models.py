"""The models that the steps prune: one trained, so that pruning means something, and a random one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.settings import ModelShape, Settings
from benchmarks.gpu_check.text import english, save_tokenizer


def train(settings: Settings, folder: Path) -> dict[str, Any]:
    """A Llama trained on Python's documentation for a while, saved to a folder; says how far it came."""
    from transformers import LlamaForCausalLM

    device = torch.device(settings.device)
    folder.mkdir(parents=True)
    tokenizer = save_tokenizer(folder, settings.trained.vocab_size)
    tokens = torch.tensor(tokenizer(english())["input_ids"], device=device)
    torch.manual_seed(0)
    with device:
        model = LlamaForCausalLM(settings.trained.config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3 if device.type == "cpu" else 6e-4)
    until, losses, seen = time.perf_counter() + settings.training_seconds, [], 0
    while time.perf_counter() < until:
        starts = torch.randint(len(tokens) - settings.window, (settings.training_batch, 1), device=device)
        batch = tokens[starts + torch.arange(settings.window, device=device)]
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        seen += batch.numel()
        if device.type == "cuda" and len(losses) % 16 == 0:
            torch.cuda.synchronize()  # or the clock would run ahead of the work
    model.to(torch.bfloat16).save_pretrained(folder)
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "tokens": seen,
        "first_loss": float(losses[0]),
        "last_loss": float(torch.stack(losses[-8:]).mean()),
    }


def make_random(shape: ModelShape, device: str, folder: Path) -> int:
    """A random Llama in bf16, saved to a folder layer by layer; returns its bytes."""
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    folder.mkdir(parents=True)
    save_tokenizer(folder, min(shape.vocab_size, 4096))
    config = shape.config()
    config.dtype, config.architectures = torch.bfloat16, ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        wanted = LlamaForCausalLM(config).state_dict()
    generator = torch.Generator(device).manual_seed(0)
    by_part: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in wanted.items():
        part = ".".join(name.split(".")[:3])
        made = torch.ones(tensor.shape) if "norm" in name else None
        if made is None:
            made = torch.randn(tensor.shape, generator=generator, device=device, dtype=torch.float32)
            made.mul_(tensor.shape[-1] ** -0.5)
        by_part.setdefault(part, {})[name] = made.to(torch.bfloat16).cpu()
    index: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(by_part.values()):
        file = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        index |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
        tensors.clear()
    document = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(document))
    return total
