"""The generated code is what the .proto files say."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
    stored = ROOT / "engine/secateur/serve/open_inference/inference.binpb"
    assert stored.read_bytes() == made.read_bytes(), "run `make proto`"


def buf(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the buf of this environment, which asks nobody else."""
    binary = Path(sys.executable).parent / "buf"
    if not binary.exists():
        pytest.skip("the package buf-bin is not installed")
    return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=60)


def test_style() -> None:
    done = buf("lint", ROOT / "proto")
    assert done.returncode == 0, done.stdout + done.stderr


def unpack(revision: str, folder: Path) -> Path:
    """Put the protos of a revision into a folder."""
    archive = subprocess.run(
        ["git", "archive", revision, "proto"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder / "proto"


def test_nothing_is_broken_since_the_last_tag(tmp_path: Path) -> None:
    try:
        tag = subprocess.run(
            ["git", "describe", "--tags", "--abbrev=0"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("there is no tag yet")
    done = buf("breaking", ROOT / "proto", "--against", unpack(tag, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_break_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "proto/secateur/v1").mkdir(parents=True)
    (tmp_path / "proto/buf.yaml").write_text((ROOT / "proto/buf.yaml").read_text())
    for file in (ROOT / "proto/secateur/v1").glob("inference.proto"):
        changed = file.read_text().replace("string model = 1;", "int32 model = 1;")
        (tmp_path / "proto/secateur/v1" / file.name).write_text(changed)
    done = buf("breaking", tmp_path / "proto", "--against", ROOT / "proto")
    assert done.returncode != 0 and "changed type from" in done.stdout
