"""How large the steps are: as meant for a GPU, or small enough for a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MINUTES = 5  # for all steps
# Seconds after which a step is ended. Here, so that who starts the steps needs none of their packages.
LIMITS: Mapping[str, float] = {
    "machine": 60,
    "tests": 120,
    "kernels": 150,
    "prune": 180,
    "judge": 60,
    "large": 200,
}


@dataclass(frozen=True)
class ModelShape:
    """A Llama to make."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int

    def config(self, positions: int = 2048) -> Any:
        """As transformers describes it."""
        from transformers import LlamaConfig

        return LlamaConfig(
            **asdict(self),
            max_position_embeddings=positions,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
        )


@dataclass(frozen=True)
class Settings:
    """Of all steps.

    Attributes:
        device: what is checked: ``cuda``, or ``cpu`` where only the script itself is.
        trained, large: the model that is trained for a while, and the random one whose stages are timed.
        training_seconds, training_batch: of the first.
        window: tokens of a window.
        evaluations, large_evaluations: architectures that the searches evaluate.
        calibration_tokens: for the first; the second takes the default.
        kernel_minutes: after which no kernel's measurement begins.
    """

    device: str
    trained: ModelShape
    large: ModelShape
    training_seconds: float
    training_batch: int
    window: int
    evaluations: int
    large_evaluations: int
    calibration_tokens: int | None
    large_calibration_tokens: int | None
    kernel_minutes: float


GPU = Settings(
    device="cuda",
    trained=ModelShape(512, 1536, 8, 8, 4, 4096),
    large=ModelShape(4096, 14336, 32, 32, 8, 128256),
    training_seconds=40,
    training_batch=64,
    window=256,
    evaluations=40,
    large_evaluations=24,
    calibration_tokens=32768,
    large_calibration_tokens=None,
    kernel_minutes=1.0,
)
PRETEND = Settings(
    device="cpu",
    trained=ModelShape(64, 192, 2, 4, 2, 512),
    large=ModelShape(64, 192, 3, 4, 2, 512),
    training_seconds=2,
    training_batch=8,
    window=32,
    evaluations=16,
    large_evaluations=6,
    calibration_tokens=2048,
    large_calibration_tokens=2048,
    kernel_minutes=0.2,
)
