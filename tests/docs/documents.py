"""The blocks of README.md and docs/*.md: what a reader would paste into a shell, and what not.

A fenced block marked ``sh`` is run by the tests, as it stands. One marked ``sh no-test: REASON`` is not.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "no-test: "
# A document with this link says in plain sight that its commands need what those of the README made.
CONTINUES = "[where the README ends]"
_FENCE = re.compile(r"^\s*(```+|~~~+)\s*(.*)$")
_HEREDOC = re.compile(r"<<-?\s*'?(\w+)'?")
_SEPARATORS = {"&&", "||", "|", "&", ";"}


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its first line, from 1."""

    document: str
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def reason(self) -> str | None:
        """Why the block is not run; None if it is."""
        rest = self.info.partition(" ")[2]
        return rest.removeprefix(NOT_RUN) if rest else None


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order.

    Raises:
        ValueError: a fence is not closed.
    """
    found, fence, info, first, text = [], "", "", 0, []
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        marker = _FENCE.match(line)
        if fence:
            if line.strip() == fence:
                found.append(Block(document.name, first, info, "\n".join(text) + "\n"))
                fence = ""
            else:
                text.append(line)
        elif marker:
            fence, info, first, text = marker[1], marker[2].strip(), number + 1, []
    if fence:
        raise ValueError(f"{document.name}:{first - 1}: a block that does not end")
    return found


def outside_blocks(document: Path) -> str:
    """The prose of a document: every line that is in no fenced block."""
    kept, fence = [], ""
    for line in document.read_text(encoding="utf-8").splitlines():
        marker = _FENCE.match(line)
        if fence:
            fence = "" if line.strip() == fence else fence
        elif marker:
            fence = marker[1]
        else:
            kept.append(line)
    return "\n".join(kept)


def commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a shell script as lists of words; bodies of here-documents are left out."""
    end, pending = "", ""
    for line in script.replace("\\\n", " ").splitlines():
        if end:
            end = "" if line.strip() == end else end
            continue
        if heredoc := _HEREDOC.search(line):
            end = heredoc[1]
        pending += line + "\n"
        lexer = shlex.shlex(pending, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quoted string that goes on in the next line
            continue
        pending = ""
        command: list[str] = []
        for word in [*words, ";"]:
            if word not in _SEPARATORS:
                command.append(word)
            elif command:
                yield _without_redirections(command)
                command = []


def here_documents(script: str) -> dict[str, str]:
    """Files that a script writes with ``cat > FILE <<'END'``, by name."""
    pattern = re.compile(r"^cat > (\S+) <<'(\w+)'\n(.*?)^\2$", re.MULTILINE | re.DOTALL)
    return {name: body for name, _, body in pattern.findall(script)}


def _without_redirections(words: list[str]) -> list[str]:
    kept, is_target = [], False
    for word in words:
        if set(word) <= {"<", ">"}:
            is_target = True
        elif is_target:
            is_target = False
        else:
            kept.append(word)
    return kept
