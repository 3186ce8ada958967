"""Recipes: what the main job does where the user does not say, by name."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.errors import BadInput
from secateur.search.samplers.paper import EVALUATIONS
from secateur.search.samplers.registry import GUIDED, PAPER

REPAIRS = ("auto", "none")


@dataclass(frozen=True)
class PruneRecipe:
    """Defaults of the main job.

    Attributes:
        sampler: who proposes architectures.
        evaluations: how many of them.
        criterion: how units are ranked.
        repair: one of `REPAIRS`.
    """

    sampler: str
    evaluations: int
    criterion: str
    repair: str


RECIPES = {
    "secateur": PruneRecipe(GUIDED, 150, "obs-greedy", "auto"),
    "paper": PruneRecipe(PAPER, EVALUATIONS, "taylor", "none"),
}


def recipe_named(name: str) -> PruneRecipe:
    """The recipe of that name: ours, or that of arXiv 2309.09507.

    Raises:
        BadInput: there is none.
    """
    if name not in RECIPES:
        raise BadInput("--recipe", name, f"allowed are {', '.join(RECIPES)}")
    return RECIPES[name]
