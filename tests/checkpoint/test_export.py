"""Checkpoints: loaded by plain transformers they are the model that was cut, and they are never half there.

Proven for every family: uniform shapes come out as the stock architecture, others load with the code
they carry where secateur cannot be imported; a disk that fills up at any byte leaves nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint import export as export_module
from secateur.checkpoint.export import describe, export, weight_bytes
from secateur.checkpoint.source import ModelSource, open_source
from secateur.errors import OutputFailed
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel, architecture_of, build_model
from secateur.model.forward import forward_context, hidden_states
from secateur.prune.surgery import build_slim_model

TOKENS = torch.randint(2, 300, (2, 24), generator=torch.Generator().manual_seed(0))
UNIFORM = Architecture((1, 1, 1), (64, 64, 64))
SHORTER = Architecture((1, 0, 1), (64, 0, 64))
MIXED = Architecture((2, 1, 0), (64, 0, 192))


def slim_of(folder: Path, shape: Architecture) -> tuple[DecoderModel, ModelSource]:
    source = open_source(folder)
    model = source.load_model()
    return build_slim_model(BlockLibrary(model, None, torch.float32), shape), source


def write(folder: Path, shape: Architecture, out: Path, dtype: torch.dtype = torch.float32) -> DecoderModel:
    model, source = slim_of(folder, shape)
    export(model, source, out, None, dtype)
    return model


def ours(model: DecoderModel) -> Tensor:
    with torch.inference_mode():
        return hidden_states(model, TOKENS, forward_context(model, TOKENS.shape[1])) @ model.head_VH.T


def theirs(folder: Path, **options: Any) -> Tensor:
    """Plain transformers: no code of a checkpoint runs unless asked for."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **options
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    with torch.inference_mode():
        return model.eval()(TOKENS).logits


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max()) < 2e-5 * float(expected.abs().max())


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


class TestStock:
    @pytest.mark.parametrize("shape", [UNIFORM, SHORTER], ids=["uniform", "layer-removed"])
    @pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
    def test_loads_anywhere_and_is_the_same(
        self, family: str, shape: Architecture, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        model = write(request.getfixturevalue(f"tiny_{family}"), shape, tmp_path / "slim")
        config = config_of(tmp_path / "slim")
        assert config["model_type"] == family
        assert config["num_hidden_layers"] == sum(map(bool, shape.groups))
        assert config["intermediate_size"] == 64 and config["num_key_value_heads"] == 1
        assert not list((tmp_path / "slim").glob("*.py"))
        assert_same(theirs(tmp_path / "slim"), ours(model))

    def test_channels_of_qwen2(self, tiny_qwen2: Path, tmp_path: Path) -> None:
        """vLLM's Qwen2 cannot have fewer heads: those come out per layer."""
        model = write(tiny_qwen2, Architecture((2,) * 3, (64,) * 3), tmp_path / "slim")
        assert config_of(tmp_path / "slim")["model_type"] == "qwen2"
        assert_same(theirs(tmp_path / "slim"), ours(model))

    def test_dense(self, tiny_model: Path, tmp_path: Path) -> None:
        shape = Architecture((2,) * 3, (192,) * 3)
        model = write(tiny_model, shape, tmp_path / "dense")
        assert_same(theirs(tmp_path / "dense"), ours(model))
        assert load_file(tmp_path / "dense" / "model.safetensors").keys() == (
            load_file(tiny_model / "model.safetensors").keys()
        )

    def test_kinds_of_layers_go_with_them(self, make_tiny: Callable[..., Path], tmp_path: Path) -> None:
        folder = make_tiny("qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=2)
        model = write(folder, Architecture((2, 0, 2), (64, 0, 64)), tmp_path / "slim")
        assert config_of(tmp_path / "slim")["layer_types"] == ["full_attention", "sliding_attention"]
        assert_same(theirs(tmp_path / "slim", attn_implementation="eager"), ours(model))

    def test_with_secateur(self, tiny_llama: Path, tmp_path: Path) -> None:
        model = write(tiny_llama, UNIFORM, tmp_path / "slim")
        again = open_source(tmp_path / "slim")
        assert torch.equal(ours(build_model(again.config, again.tensors(), "slim")), ours(model))


SCRIPT = """
import sys
for name in ("secateur", "secateur_kernels"):
    sys.modules[name] = None  # `import secateur` now fails
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
tokens = torch.tensor({tokens})
for folder in sys.argv[1:]:
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    with torch.inference_mode():
        save_file({{"logits": model.eval()(tokens).logits.contiguous()}}, folder + ".logits")
"""


class TestPerLayer:
    def test_with_secateur(self, tiny_model: Path, tmp_path: Path) -> None:
        model = write(tiny_model, MIXED, tmp_path / "slim")
        again = open_source(tmp_path / "slim")
        back = build_model(again.config, again.tensors(), "slim")
        assert config_of(tmp_path / "slim")["model_type"] == "secateur"
        assert architecture_of(back) == MIXED
        assert torch.equal(ours(back), ours(model))

    def test_without_secateur(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        """Every family, in a process in which secateur cannot be imported."""
        models = {}
        for family in ("llama", "mistral", "qwen2", "qwen3"):
            folder = request.getfixturevalue(f"tiny_{family}")
            models[family] = write(folder, MIXED, tmp_path / family)
        # Heads of Qwen2 are per layer even where all layers agree.
        models["qwen2-uniform"] = write(
            request.getfixturevalue("tiny_qwen2"), UNIFORM, tmp_path / "qwen2-uniform"
        )
        script = SCRIPT.format(tokens=TOKENS.tolist())
        run = subprocess.run(
            [sys.executable, "-c", script, *(str(tmp_path / name) for name in models)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        )
        assert run.returncode == 0, run.stderr[-2000:]
        for name, model in models.items():
            assert_same(load_file(tmp_path / f"{name}.logits")["logits"], ours(model))

    def test_carries_its_code(self, tiny_llama: Path, tmp_path: Path) -> None:
        write(tiny_llama, MIXED, tmp_path / "slim")
        for name in ("configuration_secateur.py", "modeling_secateur.py"):
            assert "import secateur" not in (tmp_path / "slim" / name).read_text()


class TestFolder:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_dtype(self, dtype: torch.dtype, tiny_llama: Path, tmp_path: Path) -> None:
        model = write(tiny_llama, MIXED, tmp_path / "slim", dtype)
        tensors = load_file(tmp_path / "slim" / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {dtype}
        assert config_of(tmp_path / "slim")["dtype"] == str(dtype).removeprefix("torch.")
        assert sum(tensor.nbytes for tensor in tensors.values()) == weight_bytes(model, dtype)

    def test_hidden_states_through_auto_model(self, tiny_llama: Path, tmp_path: Path) -> None:
        write(tiny_llama, MIXED, tmp_path / "slim")
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "slim", trust_remote_code=True)
        model, report = AutoModel.from_pretrained(
            tmp_path / "slim", trust_remote_code=True, output_loading_info=True
        )
        assert not report["missing_keys"] and not report["unexpected_keys"]
        found, expected = model(TOKENS), whole.model(TOKENS)
        assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
        with pytest.raises(ImportError, match="where the package secateur is installed"):
            type(model).is_backend_compatible()  # what vLLM asks where the plugin is not

    def test_no_key_of_the_run(self, tiny_llama: Path, tmp_path: Path) -> None:
        write(tiny_llama, MIXED, tmp_path / "slim")
        settings = json.loads((tmp_path / "slim" / "tokenizer_config.json").read_text())
        assert not {"is_local", "local_files_only", "name_or_path", "config"} & set(settings)

    def test_tokenizer(self, tiny_llama: Path, tmp_path: Path) -> None:
        write(tiny_llama, MIXED, tmp_path / "slim")
        before, after = (AutoTokenizer.from_pretrained(f) for f in (tiny_llama, tmp_path / "slim"))
        assert after("Some text, twice.")["input_ids"] == before("Some text, twice.")["input_ids"]

    def test_generation_settings(
        self, editable: Callable[[Path], Path], tiny_llama: Path, tmp_path: Path
    ) -> None:
        folder = editable(tiny_llama)
        (folder / "generation_config.json").write_text('{"temperature": 0.3, "do_sample": true}')
        write(folder, MIXED, tmp_path / "slim")
        assert json.loads((tmp_path / "slim" / "generation_config.json").read_text())["temperature"] == 0.3

    def test_readable_by_others_and_nothing_beside_it(self, tiny_llama: Path, tmp_path: Path) -> None:
        write(tiny_llama, MIXED, tmp_path / "deep" / "slim")
        assert (tmp_path / "deep" / "slim").stat().st_mode & 0o777 == 0o755
        assert os.listdir(tmp_path / "deep") == ["slim"]

    def test_metadata(self, tiny_llama: Path, tmp_path: Path) -> None:
        write(tiny_llama, MIXED, tmp_path / "slim")
        with safe_open(tmp_path / "slim" / "model.safetensors", framework="pt") as file:
            assert file.metadata()["format"] == "pt"

    def test_the_dense_config_is_left_alone(self, tiny_llama: Path, tmp_path: Path) -> None:
        model, source = slim_of(tiny_llama, SHORTER)
        before = source.config.to_dict()
        export(model, source, tmp_path / "slim", None, torch.bfloat16)
        assert source.config.to_dict() == before
        assert model.num_layers == 3

    def test_gguf_names_its_architecture(self, smollm2: ModelSource) -> None:
        """What vLLM picks the class by."""
        model = build_model(smollm2.config, smollm2.tensors(), "smollm2")
        config, _ = describe(model)
        assert config.architectures == ["LlamaForCausalLM"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a file system of so many KiB; skipped where that is not allowed."""
    mounted: list[Path] = []

    def mount(kib: int) -> Path:
        place = tmp_path / f"disk-{kib}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(place)]
        try:
            if subprocess.run(command, capture_output=True).returncode:
                pytest.skip("may not mount a file system")
        except FileNotFoundError:
            pytest.skip("no mount command")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


LIMITED = """
import resource, sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from secateur.errors import OutputFailed
from secateur.checkpoint.export import export
from test_export import slim_of, MIXED
model, source = slim_of(Path({folder!r}), MIXED)
out = Path({out!r})
for limit in {limits}:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        export(model, source, out, {{}}, torch.float32)
    except OutputFailed as error:
        message = str(error)
        assert "\\n" not in message and error.exit_status == 2, message
    else:
        raise SystemExit(f"limit {{limit}}: no failure")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert not list(out.parent.iterdir()), (limit, list(out.parent.iterdir()))
print("nothing left")
"""


class TestNeverHalf:
    def test_no_room_is_seen_before_writing(
        self, small_disk: Callable[[int], Path], tiny_llama: Path
    ) -> None:
        disk = small_disk(1024)
        with pytest.raises(OutputFailed, match=r"the disk is full: [\d,]+ bytes needed, [\d,]+ free"):
            write(tiny_llama, MIXED, disk / "slim")
        assert os.listdir(disk) == []

    @pytest.mark.parametrize("kib", [0, 4, 8, 12, 20, 64, 256])
    def test_a_disk_that_fills_up_meanwhile(
        self,
        kib: int,
        small_disk: Callable[[int], Path],
        tiny_llama: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Somebody else took the room that was there: config, tokenizer or weights do not fit."""
        monkeypatch.setattr(export_module, "check_disk_space", lambda *_: None)
        disk = small_disk(max(kib, 4))
        if kib == 0:
            (disk / "other").write_bytes(b"x" * 4096)
        before = os.listdir(disk)
        with pytest.raises(OutputFailed, match="cannot be written") as caught:
            write(tiny_llama, MIXED, disk / "slim")
        assert "\n" not in str(caught.value) and caught.value.exit_status == 2
        assert os.listdir(disk) == before

    def test_at_any_file(self, tiny_llama: Path, tmp_path: Path) -> None:
        """A limit on the size of files stops each kind of file in the middle of a write."""
        (tmp_path / "out").mkdir()
        script = LIMITED.format(
            tests=str(Path(__file__).parent),
            folder=str(tiny_llama),
            out=str(tmp_path / "out" / "slim"),
            limits=[100, 1000, 2000, 5000, 9000, 20_000, 100_000],
        )
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stdout.strip() == "nothing left"

    def test_an_error_inside(self, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also a bug, or Ctrl-C, leaves nothing."""
        for error in (ZeroDivisionError, KeyboardInterrupt):

            def fail(*_: object, kind: type[BaseException] = error, **__: object) -> None:
                raise kind

            monkeypatch.setattr(export_module, "save_torch_state_dict", fail)
            with pytest.raises(error):
                write(tiny_llama, MIXED, tmp_path / "out" / "slim")
            assert os.listdir(tmp_path / "out") == []

    def test_an_existing_folder_is_not_touched(self, tiny_llama: Path, tmp_path: Path) -> None:
        (tmp_path / "slim").mkdir()
        (tmp_path / "slim" / "mine").write_text("precious")
        with pytest.raises(OutputFailed, match="appeared while it was being written"):
            write(tiny_llama, MIXED, tmp_path / "slim")
        assert os.listdir(tmp_path) == ["slim"] and os.listdir(tmp_path / "slim") == ["mine"]
