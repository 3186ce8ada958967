"""A GGUF file: its header, checked against truncation, and its tensors under Hugging Face names.

The header is parsed here rather than with ``gguf.GGUFReader``, which maps every vocabulary entry
to its own numpy array (2 s for 49k tokens) and meets a truncated file with an unrelated exception.
Only the dequantisation of tensors is left to the ``gguf`` package.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import BrokenCheckpoint, UnsupportedModel

if TYPE_CHECKING:
    import numpy as np
    import torch

MAGIC = b"GGUF"
SUPPORTED_VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
STRING, ARRAY = 8, 9
ROPE_FACTORS = "rope_freqs.weight"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

# The families we read share one naming on both sides.
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class GgufTensorInfo:
    """One tensor: its shape (row-major), GGML type and place."""

    file: Path
    shape: tuple[int, ...]
    ggml_type: int
    start: int
    length: int


@dataclass(frozen=True)
class GgufFile:
    """A checked GGUF file.

    Attributes:
        files: the file, or all parts of a split one, the first of which has the header.
        metadata: the scalar and string fields of the header.
        array_lengths: the number of items of each array field.
        entries: the tensors by Hugging Face name.
        rope_factors: by what each rotary frequency is divided, where the file says so.
    """

    files: tuple[Path, ...]
    metadata: dict[str, object]
    array_lengths: dict[str, int]
    entries: dict[str, GgufTensorInfo]
    rope_factors: np.ndarray | None = None

    @property
    def architecture(self) -> str:
        """The model type as GGUF names it; equal to transformers' for the families we read."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def vocabulary(self) -> int:
        """Number of tokens of the embedded tokenizer; 0 when there is none."""
        return self.array_lengths.get("tokenizer.ggml.tokens", 0)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor by Hugging Face name."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return every tensor dequantised to float32."""
        import numpy as np
        import torch

        data = {file: np.memmap(file, mode="r", dtype=np.uint8) for file in self.files}
        return {
            name: torch.from_numpy(self._weights(name, entry, data[entry.file]))
            for name, entry in self.entries.items()
        }

    def _weights(self, name: str, entry: GgufTensorInfo, data: np.ndarray) -> np.ndarray:
        import gguf
        import numpy as np

        ggml_type = gguf.GGMLQuantizationType(entry.ggml_type)
        block = data[entry.start : entry.start + entry.length]
        native = {ggml_type.F32: np.float32, ggml_type.F16: np.float16}.get(ggml_type)
        block = block.view(native) if native else block
        weights = gguf.dequantize(block.reshape(*entry.shape[:-1], -1), ggml_type)
        if self.architecture == "llama":
            weights = _unpermuted(name, weights, self.metadata)
        return np.array(weights, dtype=np.float32, order="C")  # a copy: never a view of the file


def open_gguf(file: Path) -> GgufFile:
    """Return ``file``, and the other parts where it is the first of several, parsed and proved to be whole.

    Raises:
        BrokenCheckpoint: not a GGUF file, damaged or truncated, or a part is missing.
        UnsupportedModel: a GGUF variant that cannot be read exactly.
    """
    first = _open_part(file)
    count = first.metadata.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return first
    ending = f"-00001-of-{count:05}.gguf"
    if not file.name.endswith(ending):
        raise UnsupportedModel(
            "model", file, f"one of {count} parts of a GGUF file; give the first, *{ending}"
        )
    parts = [first]
    for number in range(2, count + 1):
        part = file.with_name(file.name.removesuffix(ending) + f"-{number:05}-of-{count:05}.gguf")
        if not part.is_file():
            raise BrokenCheckpoint("model", file, f"its part {part.name} is missing")
        parts.append(_open_part(part))
        if parts[-1].metadata.get("split.no") != number - 1:
            raise BrokenCheckpoint("model", part, "another part, by its header, than by its name")
    entries = {name: entry for part in parts for name, entry in part.entries.items()}
    factors = next((part.rope_factors for part in parts if part.rope_factors is not None), None)
    files = tuple(part.files[0] for part in parts)
    return replace(first, files=files, entries=entries, rope_factors=factors)


def _open_part(file: Path) -> GgufFile:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(4) != MAGIC:
            raise BrokenCheckpoint(
                "model", file, "neither a model folder nor a GGUF file (it does not begin with 'GGUF')"
            )
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            try:
                metadata, lengths, raw_entries, data_start = _header(_BinaryReader(mapped, 4), file)
            except (struct.error, LookupError, ValueError, ArithmeticError, RecursionError) as error:
                raise BrokenCheckpoint(
                    "model", file, f"truncated or damaged inside its header ({size:,} bytes)"
                ) from error
    entries = {}
    rope_factors = None
    for name, shape, ggml_type, offset in raw_entries:
        start, length = data_start + offset, _byte_length(file, shape, ggml_type)
        if start + length > size:
            raise BrokenCheckpoint(
                "model", file, f"truncated: {size:,} bytes, tensor {name} ends at {start + length:,}"
            )
        entry = GgufTensorInfo(file, shape, ggml_type, start, length)
        if name == ROPE_FACTORS:
            rope_factors = _rope_factors(file, entry)
        else:
            entries[_hugging_face_name(file, name)] = entry
    return GgufFile((file,), metadata, lengths, entries, rope_factors)


class _BinaryReader:
    """Reads little-endian values one after another."""

    def __init__(self, mapped: mmap.mmap, position: int) -> None:
        self.mapped = mapped
        self.position = position

    def read(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.mapped, self.position)
        self.position += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        return self.skip(self.read("Q")).decode("utf-8")

    def name(self) -> str:
        name = self.string()
        if not name.isprintable():
            raise ValueError("control characters in a name")
        return name

    def skip(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.mapped):
            raise IndexError("past the end of the file")
        value = self.mapped[self.position : end] if count < 1 << 20 else b""
        self.position = end
        return value


RawTensorInfo = tuple[str, tuple[int, ...], int, int]


def _header(
    cursor: _BinaryReader, file: Path
) -> tuple[dict[str, object], dict[str, int], list[RawTensorInfo], int]:
    version = cursor.read("I")
    if version not in SUPPORTED_VERSIONS:
        raise UnsupportedModel("model", file, f"GGUF version {version}; versions 2 and 3 can be read")
    tensor_count, field_count = cursor.read("Q"), cursor.read("Q")
    metadata: dict[str, object] = {}
    lengths: dict[str, int] = {}
    for _ in range(field_count):
        key, kind = cursor.name(), cursor.read("I")
        if kind == ARRAY:
            lengths[key] = _skip_array(cursor)
        else:
            metadata[key] = cursor.string() if kind == STRING else cursor.read(SCALARS[kind])
    entries = [_raw_entry(cursor) for _ in range(tensor_count)]
    alignment = int(str(metadata.get("general.alignment", DEFAULT_ALIGNMENT)))
    return metadata, lengths, entries, -(-cursor.position // alignment) * alignment


def _raw_entry(cursor: _BinaryReader) -> RawTensorInfo:
    name = cursor.name()
    # GGUF lists dimensions fastest first.
    shape = tuple(cursor.read("Q") for _ in range(cursor.read("I")))[::-1]
    return name, shape, cursor.read("I"), cursor.read("Q")


def _skip_array(cursor: _BinaryReader) -> int:
    kind, count = cursor.read("I"), cursor.read("Q")
    if kind == STRING:
        for _ in range(count):
            cursor.skip(cursor.read("Q"))
    elif kind == ARRAY:
        for _ in range(count):
            _skip_array(cursor)
    else:
        cursor.skip(count * struct.calcsize("<" + SCALARS[kind]))
    return count


def _rope_factors(file: Path, entry: GgufTensorInfo) -> np.ndarray:
    import numpy as np

    if entry.ggml_type != 0 or len(entry.shape) != 1:
        raise UnsupportedModel("model", file, f"{ROPE_FACTORS} is not one row of 32-bit floats")
    return np.fromfile(file, "<f4", entry.shape[0], offset=entry.start)


def _byte_length(file: Path, shape: tuple[int, ...], ggml_type: int) -> int:
    """Return the bytes a tensor takes, after proving that its type can be dequantised."""
    import gguf
    import numpy as np

    name = f"number {ggml_type}, unknown to the gguf package,"
    try:
        kind = gguf.GGMLQuantizationType(ggml_type)
        name = kind.name
        block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
        if kind not in (kind.F32, kind.F16):
            gguf.dequantize(np.zeros((1, type_size), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UnsupportedModel("model", file, f"tensor type {name} cannot be dequantised") from error
    if not shape or shape[-1] % block_size:
        raise BrokenCheckpoint("model", file, f"a tensor of shape {shape} does not fit its type {kind.name}")
    count = 1
    for dimension in shape:
        count *= dimension
    return count // block_size * type_size


def _hugging_face_name(file: Path, name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.{suffix}"
    block, _, rest = stem.partition(".")
    layer, _, part = rest.partition(".")
    if block == "blk" and layer.isdigit() and part in LAYER_NAMES:
        return f"model.layers.{layer}.{LAYER_NAMES[part]}.{suffix}"
    raise UnsupportedModel("model", file, f"tensor {name} belongs to no family that can be read")


def _unpermuted(name: str, weights: np.ndarray, metadata: dict[str, object]) -> np.ndarray:
    """Undo llama.cpp's reordering of query and key rows (it interleaves the two rotary halves)."""
    if ".q_proj." in name:
        heads = metadata["llama.attention.head_count"]
    elif ".k_proj." in name:
        heads = metadata.get("llama.attention.head_count_kv", metadata["llama.attention.head_count"])
    else:
        return weights
    rows, *rest = weights.shape
    return weights.reshape(int(str(heads)), -1, 2, *rest).swapaxes(1, 2).reshape(rows, *rest)
