"""Below the command line nothing knows its flags: errors and texts name fields; each edge spells them.

Over the syntax tree: no string of a module, docstrings too, has a flag in it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import secateur

PACKAGE = Path(secateur.__file__).parent
FLAG = re.compile(r"(?<![\w-])(?<!var\()--[a-z][a-z-]*")  # var(--name) is a property of a stylesheet

# Arguments of other programs.
ALLOWED = {
    "bench/environment.py": {"--always", "--dirty"},  # git describe, to say which commit was measured
    "checkpoint/source.py": {"--no-deps"},  # pip install, to say how a missing package is got
    "serve/process.py": {"--json", "--listen"},  # secateur serve, started as a child process
}


def flags(source: str) -> Iterator[tuple[int, str]]:
    """Lines and flags of all strings of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for match in FLAG.finditer(node.value):
                yield node.lineno, match[0]


def modules() -> list[str]:
    files = sorted(file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py"))
    return [file.as_posix() for file in files if file.parts[0] not in ("cli", "v1")]


def test_no_string_below_the_command_line_has_a_flag() -> None:
    found = [
        f"{module}:{line}: {flag}"
        for module in modules()
        for line, flag in flags((PACKAGE / module).read_text(encoding="utf-8"))
        if flag not in ALLOWED.get(module, ())
    ]
    assert found == []


@pytest.mark.parametrize("module", ALLOWED)
def test_what_is_allowed_is_there(module: str) -> None:
    assert {flag for _, flag in flags((PACKAGE / module).read_text(encoding="utf-8"))} == ALLOWED[module]


@pytest.mark.parametrize(
    "source", ['"give --keep"', 'f"{x} or --seconds {y}"', 'def f():\n    """See ``--json``."""']
)
def test_a_flag_is_seen(source: str) -> None:
    assert len(list(flags(source))) == 1


@pytest.mark.parametrize("source", ['"fill:var(--c1)"', '"a--b"', '"--"', '"---"'])
def test_what_is_no_flag(source: str) -> None:
    assert list(flags(source)) == []
