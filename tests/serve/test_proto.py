"""The generated code is what the .proto files say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "proto/released.binpb"


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    include = Path(sys.modules["grpc_tools"].__file__ or "").parent / "_proto"
    protos = sorted((ROOT / "proto/secateur/v1").glob("*.proto"))
    assert protos
    flags = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", *flags, *map(str, protos)]
    assert protoc.main(arguments) == 0
    fresh = {file.name: file.read_text() for file in (tmp_path / "secateur/v1").iterdir()}
    stored = {
        file.name: file.read_text()
        for file in (ROOT / "engine/secateur/v1").iterdir()
        if file.is_file() and file.name != "__init__.py"
    }
    assert stored == fresh, "run `make proto`"


def test_descriptors_of_the_open_inference_protocol_are_up_to_date(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    folder, made = ROOT / "proto/inference", tmp_path / "inference.binpb"
    protos = sorted(map(str, folder.glob("*.proto")))
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={made}", *protos]) == 0
    stored = ROOT / "engine/secateur/serve/protocols/open_inference/inference.binpb"
    assert stored.read_bytes() == made.read_bytes(), "run `make proto`"


def buf(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the buf of this environment, as `make lint` does."""
    binary = Path(sys.executable).parent / "buf"
    if not binary.exists():
        pytest.skip("the package buf-bin is not installed")
    return subprocess.run([binary, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_style() -> None:
    done = buf("lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_clients_of_the_last_release_understand_us() -> None:
    done = buf("breaking", "--against", RELEASED)
    assert done.returncode == 0, done.stdout + done.stderr


BREAKING = {
    "another type": ("string model = 1;", "int32 model = 1;", "changed type from"),
    "another number": ("string model = 1;", "string model = 77;", "was deleted"),
    "a method gone": ("rpc StreamGenerate(", "rpc Streamed(", "was deleted"),
}


@pytest.mark.parametrize("change", BREAKING)
def test_what_breaks_clients_is_found(tmp_path: Path, change: str) -> None:
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    file = tmp_path / "proto/secateur/v1/inference.proto"
    before, after, complaint = BREAKING[change]
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    done = buf("breaking", "--against", RELEASED, cwd=tmp_path)
    assert done.returncode != 0 and complaint in done.stdout
