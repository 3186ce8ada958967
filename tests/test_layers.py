"""The rooms of docs/architecture.md: what `make lint` holds the imports to, and that it would notice.

Imports inside functions and under TYPE_CHECKING count like those at the top of a file.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"secateur": ROOT / "engine/secateur", "secateur_kernels": ROOT / "kernels/secateur_kernels"}
MAX_CHAIN = 15  # modules of secateur

IMPORT_BY_NAME = {
    "engine/secateur/checkpoint/modeling_secateur.py": "transformers' classes of one family of several",
    "engine/secateur/cli/commands.py": "the commands, one module each, registered in one loop",
    "engine/secateur/cli/doctor.py": "imports of torchvision and transformers that may fail, to say why",
    "kernels/secateur_kernels/backend.py": "the backend chosen at run time; both offer the same functions",
}
"""Files that may import a module by a name that is computed, and what for."""

NAMED_MODULES = {
    "engine/secateur/bench/latency/meter.py": "starts its worker processes",
    "engine/secateur/bench/offline/meter.py": "starts its worker process",
    "engine/secateur/cli/commands.py": "a prefix of the modules that hold commands",
    "engine/secateur/serve/benchmarks/process.py": "a benchmark of this server is a process of its own",
    "engine/secateur/serve/jobs/process.py": "a job is a process of its own",
    "engine/secateur/serve/models/checkpoint.py": "checks checkpoints in a process that may be killed",
    "engine/secateur/serve/process.py": "runs `secateur serve` for the demo and the benchmarks",
    "engine/secateur/serve/text/encoder.py": "templates and tokenisers have processes of their own",
    "engine/secateur/vllm_plugin/plugin.py": "vLLM imports the model class when it needs it",
}
"""Files with the dotted name of one of our modules in a string, and what for."""


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The modules that each module imports directly."""
    graph = grimp.build_graph(*SOURCES, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources in a place where they may be spoilt."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("engine", "kernels"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    return tmp_path


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts as `make lint` does."""
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"]
    environment = {**os.environ, "PYTHONPATH": f"{root}/engine:{root}/kernels", "COLUMNS": "200"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)


def test_contracts_are_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


PLANTED = {
    "at the top": ("model/decoder.py", "import secateur.search.loop", "rooms import downwards only"),
    "inside a function": (
        "checkpoint/export.py",
        "def planted():\n    from secateur.serve import server\n",
        "rooms import downwards only",
    ),
    "for types": (
        "calibrate/least_squares.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from secateur.evaluation import race\n",
        "rooms import downwards only",
    ),
    "a room that has no place": ("attic/__init__.py", "", "rooms import downwards only"),
    "between neighbours": (
        "model/families.py",
        "from secateur.model import decoder",
        "no cycles between neighbours, at any depth",
    ),
    "a heavy library": ("client/client.py", "import torch", "configuration and clients are light"),
    "a heavy library, by way of others": ("errors.py", "import vllm", "configuration and clients are light"),
    "the kernels": (
        "../../kernels/secateur_kernels/work.py",
        "from secateur import errors",
        "the kernels know nothing of the engine",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_import_the_wrong_way_is_refused(copy: Path, planted: str) -> None:
    name, text, contract = PLANTED[planted]
    file = copy / "engine/secateur" / name
    if new := not file.parent.exists():
        file.parent.mkdir()
    before = "" if new else file.read_text()
    file.write_text(f"{before}\n{text}\n")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout, done.stdout


def test_no_module_imports_itself_by_way_of_others(imports: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_chains_of_imports_are_short(imports: dict[str, set[str]]) -> None:
    ours = {module for module in imports if module.partition(".")[0] == "secateur"}

    @functools.cache
    def longest(module: str) -> tuple[str, ...]:
        return (module, *max((longest(item) for item in sorted(imports[module] & ours)), key=len, default=()))

    chain = max((longest(module) for module in sorted(ours)), key=len)
    assert len(chain) <= MAX_CHAIN, f"{len(chain)} modules: " + " -> ".join(chain)


def syntax_trees() -> Iterator[tuple[str, ast.Module]]:
    """Every source file with its syntax tree."""
    for folder in SOURCES.values():
        for file in sorted(folder.rglob("*.py")):
            yield str(file.relative_to(ROOT)), ast.parse(file.read_text(encoding="utf-8"))


def test_modules_are_imported_by_name_only_where_said() -> None:
    by_name = {"import_module", "__import__", "runpy", "spec_from_file_location"}
    files = {
        name
        for name, tree in syntax_trees()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in by_name)
        or (isinstance(node, ast.Attribute) and node.attr in by_name)
        or (isinstance(node, ast.alias) and node.name in by_name)
    }
    assert files == set(IMPORT_BY_NAME)


def test_modules_are_named_in_strings_only_where_said() -> None:
    dotted = re.compile(rf"({'|'.join(SOURCES)})\.[a-z]\w*[.:]?[\w.:]*")
    modules = {"secateur.v1"}
    for package, folder in SOURCES.items():
        for file in folder.rglob("*.py"):
            modules.add(".".join((package, *file.relative_to(folder).with_suffix("").parts)))
    files = {
        name
        for name, tree in syntax_trees()
        if "/v1/" not in name
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and dotted.fullmatch(node.value)
        if node.value.partition(":")[0].rstrip(".") in modules or node.value.endswith(".")
    }
    assert files == set(NAMED_MODULES)


def test_optuna_is_used_by_its_public_names() -> None:
    """Its releases within a major version, which pyproject.toml admits, may change all others."""
    private = []
    for name, tree in syntax_trees():
        nodes = list(ast.walk(tree))
        imported = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        imported = [node for node in imported if str(node.module).partition(".")[0] == "optuna"]
        for node in imported:
            path = [*str(node.module).split("."), *(alias.name for alias in node.names)]
            private += [f"{name}: {part}" for part in path if part.startswith("_")]
        if imported or any(isinstance(node, ast.Import) and node.names[0].name == "optuna" for node in nodes):
            for node in nodes:
                owner = node.value if isinstance(node, ast.Attribute) else None
                if owner is None or (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                    continue
                if re.match(r"_[^_]", node.attr):  # type: ignore[attr-defined]
                    private.append(f"{name}: {ast.unparse(node)}")
    assert private == []
