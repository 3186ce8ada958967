"""No checkpoint counts as written before transformers alone has opened it and found the same loss.

That happens in another process, without secateur (`verification_process`). Importing transformers takes
it seconds: `start_verification` has it begin while there is other work.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from secateur.checkpoint.source import ModelSource
from secateur.errors import OutputFailed
from secateur.model.decoder import DecoderModel
from secateur.model.forward import float32_nll

TOKENS = 128
# Both sides compute in float32, but add up in another order: the losses of SmolLM2-135M differ by 2e-5, those
# of tiny models by 1e-6. More depth makes it more; a wrong tensor, width or scaling makes 1e-2.
TOLERANCE = 5e-4


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        transformers: the version that opened the checkpoint.
        tokens: how many tokens of English text the losses are of.
        loss: by transformers, nats per token in float32.
        engine_loss: by the engine, of the model that was written.
    """

    transformers: str
    tokens: int
    loss: float
    engine_loss: float

    def to_json(self) -> dict[str, Any]:
        """For ``secateur.json``."""
        return asdict(self)


def start_verification() -> None:
    """Start the process that verifies, if there is none; returns at once."""
    _process()


def verify(folder: Path, model: DecoderModel, source: ModelSource) -> Verification:
    """Open `folder` with transformers in another process and compare its tokens and its loss.

    Args:
        folder: a checkpoint that was just written.
        model: the model in it, in the dtype that was written.
        source: where its tokenizer came from.

    Raises:
        OutputFailed: it does not open, or is another model than `model`.
    """
    from pydoc_data.topics import topics

    text = topics["with"]
    answer = _process().ask({"folder": str(folder), "text": text, "tokens": TOKENS})
    if "error" in answer:
        raise OutputFailed(f"`out`: transformers cannot open the checkpoint: {answer['error']}")
    ids = source.tokenizer()(text, add_special_tokens=False, verbose=False)["input_ids"][:TOKENS]
    if answer["tokens"] != ids:
        raise OutputFailed("`out`: the tokenizer that was written splits text in another way")
    engine_loss = float32_nll(model, ids)
    if not abs(answer["loss"] - engine_loss) <= TOLERANCE * max(1.0, engine_loss):
        found = f"its loss is {answer['loss']:.6f} there, {engine_loss:.6f} here"
        raise OutputFailed(f"`out`: transformers opens the checkpoint as another model: {found}")
    return Verification(answer["transformers"], len(ids), answer["loss"], engine_loss)


class VerificationProcess:
    """The other process: asked one thing at a time. It ends when this process does, or its pipe is closed."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("verification_process.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script)],  # -P: its folder is no place to import from
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lock = threading.Lock()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer; with ``error`` if the process ended instead."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            try:
                print(json.dumps(question), file=self._process.stdin, flush=True)
                answer = self._process.stdout.readline()
            except BrokenPipeError:
                answer = ""
        if not answer:
            return {"error": f"the process that opens it ended with status {self._process.wait()}"}
        return json.loads(answer)


def _process() -> VerificationProcess:
    process = _latest()
    if not process.is_alive:
        _latest.cache_clear()
        process = _latest()
    return process


@cache
def _latest() -> VerificationProcess:
    return VerificationProcess()
