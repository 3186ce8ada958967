"""Pages: one HTML file with everything in it, needing no network and no other file."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, **values: Any) -> str:
    """Fill a template in; `style` and `script`, common to all pages, are there already."""
    environment = Environment(
        loader=PackageLoader("secateur.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = Markup
    common = {"style": Markup(_file("study.css")), "script": Markup(_file("study.js"))}
    return environment.get_template(template).render(**common, **values)


def _file(name: str) -> str:
    return files("secateur.report").joinpath("templates", name).read_text("utf-8")
