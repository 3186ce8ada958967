"""Documents as text: every block is run or says why not, every command and option in them exists."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePath

import pytest
import typer
from typer.exceptions import TyperException

from secateur.cli.commands import build_app
from secateur.errors import SecateurError
from tests.docs.documents import DOCUMENTS, ROOT, Block, blocks, commands, here_documents, outside_blocks

# Blocks of shell commands that are shown, but not run. Add one here only if it cannot be run anywhere but on
# the reader's machine.
NOT_RUN = [
    ("README.md", "your model, your text"),
    ("README.md", "installs packages"),
    ("benchmarking.md", "takes minutes, or needs servers of other kinds"),
    ("checkpoint.md", "peft is not a dependency"),
    ("dependencies.md", "installs packages"),
    ("install.md", "installs packages"),
    ("install.md", "installs packages"),
]
LANGUAGES = {"sh", "text", "python", "js", "json", "yaml", "toml"}
# Options in prose that are not ours.
FOREIGN_OPTIONS = {"--no-deps", "--target", "--extra-index-url", "--inputs"}
TOPS = ("engine", "kernels", "tests", "benchmarks", "examples")
# Templates of names, and files that are not in the repository.
FOREIGN_FILES = {"torch_backend/ROOM.py", "triton_backend/ROOM.py"}
MAX_WORDS_OF_README = 900
MAX_COLUMNS = 120

all_documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def shell_blocks(document: Path) -> list[Block]:
    return [block for block in blocks(document) if block.language == "sh"]


def all_shell_blocks() -> list[Block]:
    return [block for document in DOCUMENTS for block in shell_blocks(document)]


@all_documents
def test_every_block_says_what_it_is(document: Path) -> None:
    """Other shells (bash, console) are not allowed: a block of commands must not slip past the test."""
    for block in blocks(document):
        place = f"{block.document}:{block.line}"
        assert block.language in LANGUAGES, f"{place}: a block marked {block.info!r}"
        if block.language == "sh":
            assert block.reason is None or block.info == f"sh no-test: {block.reason}", place
            assert block.reason != "", f"{place}: say why it is not run"
        else:
            starts = re.findall(r"^\s*(?:secateur|make|pip|python3?|curl|buf|docker) .*$", block.text, re.M)
            assert not starts, f"{place}: commands in a block that is not marked sh: {starts}"


@all_documents
def test_no_commands_in_indented_blocks(document: Path) -> None:
    lines = outside_blocks(document).splitlines()
    code = [line for line in lines if re.match(r" {4,}(secateur|make|pip|python3?|\.\s|source) ?", line)]
    assert code == []


def test_blocks_that_are_not_run() -> None:
    assert [(block.document, block.reason) for block in all_shell_blocks() if block.reason] == NOT_RUN


@pytest.mark.parametrize(
    ("block", "words"),
    [
        pytest.param(block, words, id=f"{block.document}:{block.line}:{number}")
        for block in all_shell_blocks()
        for number, words in enumerate(commands(block.text))
        if words[0] == "secateur"
    ],
)
def test_the_command_line_accepts(
    block: Block, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser takes every command in the documents; nothing is run."""
    monkeypatch.chdir(tmp_path)
    for name, body in here_documents(block.text).items():
        (tmp_path / name).write_text(body, encoding="utf-8")
    try:
        parse(words[1:])
    except (TyperException, SecateurError) as error:
        pytest.fail(f"{block.document}: {' '.join(words)}: {error}")
    except typer.Exit:
        pass  # --version, --help


@pytest.mark.parametrize(
    "words",
    [["prune", "m", "--out", "x", "--keeep", "1"], ["study", "fronts", "x"], ["prune", "m", "--seed", "x"]],
)
def test_the_command_line_refuses(words: list[str]) -> None:
    with pytest.raises(TyperException):
        parse(words)


@all_documents
def test_options_in_prose_exist(document: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", outside_blocks(document))
    options = {
        option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", span)
    } - FOREIGN_OPTIONS
    unknown = {option for option in options if option not in our_options() | benchmark_options()}
    assert unknown == set()


def test_the_options_of_prune_are_grouped_as_in_its_help() -> None:
    text = (ROOT / "docs" / "prune.md").read_text(encoding="utf-8").split("## Options\n")[1].split("\n## ")[0]
    written = {
        title: set(re.findall(r"(?<=`)--[a-z-]+", section))
        for title, section in (part.split("\n", 1) for part in text.split("\n### ")[1:])
    }
    groups: dict[str, set[str]] = {"General": set()}
    for parameter in command_line().commands["prune"].params:  # type: ignore[attr-defined]
        if parameter.param_type_name == "option" and "--help" not in parameter.opts:
            groups.setdefault(parameter.rich_help_panel or "General", set()).add(parameter.opts[0])
    assert {title: options & our_options() for title, options in written.items()} == groups


def test_length_of_the_readme() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MAX_WORDS_OF_README


@all_documents
def test_lines_are_not_too_long(document: Path) -> None:
    """Rows of tables apart, which markdown cannot break."""
    lines = document.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > MAX_COLUMNS and not line.startswith("|")] == []


@all_documents
def test_links_lead_to_files(document: Path) -> None:
    text = outside_blocks(document)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name}: {target}"
        if anchor:
            assert anchor in headings(file), f"{document.name}: {target}"


@all_documents
def test_files_it_names_exist(document: Path) -> None:
    """Paths of modules in prose, from the root or from anywhere below it."""
    tree = [str(file.relative_to(ROOT)) for top in TOPS for file in (ROOT / top).rglob("*.py")]
    spans = re.findall(r"`([^`\n]+)`", outside_blocks(document))
    named = {path for span in spans for path in re.findall(r"[\w*/]+\.py\b", span)} - FOREIGN_FILES
    missing = {path for path in named if not any(PurePath(file).match(path) for file in tree)}
    assert missing == set()


@all_documents
def test_what_its_python_imports_exists(document: Path) -> None:
    """In blocks of Python and in scripts within blocks of commands."""
    text = document.read_text(encoding="utf-8")
    for module, names in re.findall(r"^from (secateur\S*) import (.+)$", text, re.MULTILINE):
        imported = import_module(module)
        for name in names.split(", "):
            assert hasattr(imported, name) or find_spec(f"{module}.{name}"), f"from {module} import {name}"


def test_nobody_is_told_to_install_from_pypi() -> None:
    """The project of this name there is not ours."""
    files = [*DOCUMENTS, *(ROOT / "examples").glob("*.md"), *(ROOT / "engine").rglob("*.py")]
    told = re.compile(r"pip install[^\n]*[ '\"]secateur\b|pypi\.org/project/secateur", re.IGNORECASE)
    offers = [
        f"{file.name}: {match.group()}"
        for file in files
        for match in told.finditer(file.read_text(encoding="utf-8"))
        if "in a checkout of secateur" not in match.group()
    ]
    assert offers == []


@cache
def headings(document: Path) -> frozenset[str]:
    """The anchors that GitHub gives the headings of a document."""
    titles = re.findall(r"^#+ (.*)$", outside_blocks(document), re.M)
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)


@cache
def command_line() -> object:
    return typer.main.get_command(build_app())


def parse(words: list[str]) -> None:
    """Parse a command line down to its last subcommand.

    Raises:
        TyperException: it is not accepted.
    """
    command, context, rest = command_line(), None, list(words)
    name: str | None = "secateur"
    while True:
        context = command.make_context(name, rest, parent=context)  # type: ignore[attr-defined]
        if not hasattr(command, "resolve_command"):
            return
        remaining = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, remaining)


@cache
def our_options() -> frozenset[str]:
    found = {"--help"}

    def collect(command: object) -> None:
        for parameter in command.params:  # type: ignore[attr-defined]
            found.update(parameter.opts, parameter.secondary_opts)
        for child in getattr(command, "commands", {}).values():
            collect(child)

    collect(command_line())
    return frozenset(found)


@cache
def benchmark_options() -> frozenset[str]:
    """Options of `python -m benchmarks.…`, which documents mention too."""
    text = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "benchmarks").rglob("*.py"))
    return frozenset(re.findall(r"add_argument\(\s*\"(--[a-z0-9-]+)\"", text))
