"""docs/families.md says what was found, of every family."""

from __future__ import annotations

import json

from secateur.model.families import FAMILIES
from tests.docs.documents import ROOT
from tests.families.page import RESULTS, rows

PAGE = (ROOT / "docs/families.md").read_text()


def test_the_table_is_what_was_found() -> None:
    assert "\n".join(rows()) in PAGE, "put the output of python -m tests.families.page there"


def test_of_every_family() -> None:
    assert set(json.loads(RESULTS.read_text())["families"]) == set(FAMILIES)
    assert all(f"| `{family}` |" in PAGE for family in FAMILIES)
