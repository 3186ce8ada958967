"""Few layer shapes: an architecture brought down to a number of distinct (groups, channels), or to one.

Engines compile, and build attention metadata, per shape. Layers of one shape form a class. Classes are
merged two by two, each time those that lose least by the table when they get the best shape that costs
no more than they did; then whole classes are narrowed until the budget holds, and widened until nothing
more fits. Where all layers have one shape or are removed whole, the layers that the architecture keeps
least of are removed first, as many as the table likes best with the best shape for the others.

Shape suffixes: N layers, L limits of a budget, G group widths, C channel widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from secateur.model.architecture import Architecture, Kind
from secateur.space.budget import Budget
from secateur.space.knapsack import Values
from secateur.space.space import Space

_Class = tuple[int, ...]  # layers, ascending
_Cell = tuple[int, int]  # index of the groups, index of the channels
_NOTHING = 1e-30  # price of what no limit counts


def consolidate(space: Space, budget: Budget, values: Values, candidate: Architecture) -> Architecture:
    """An architecture near `candidate` with at most ``space.max_shapes`` layer shapes, within the budget.

    Args:
        values: what a width loses; falls as the width grows.
        candidate: any architecture of the widths of the space; over the budget or not.
    """
    rows = _rows(space, budget, values)
    if space.stock_groups is not None:
        return _stock(space, rows, budget, candidate)
    assert space.max_shapes is not None
    classes = rows.classes(candidate)
    _merge(rows, classes, space.max_shapes)
    if not _narrow(rows, budget, classes):
        fitting = (small for small in space.narrowest if budget.fits(small))
        classes = rows.classes(next(fitting, space.narrowest[0]))
    _widen(rows, budget, classes)
    return rows.architecture(classes)


def _stock(space: Space, rows: _Rows, budget: Budget, candidate: Architecture) -> Architecture:
    assert space.stock_groups is not None
    g_allowed = np.array([width in space.stock_groups for width in rows.groups_G])
    c_allowed = np.array([width > 0 for width in rows.channels_C])
    allowed_GC = g_allowed[:, None] & c_allowed[None, :]
    ((every, whole),) = rows.classes(space.dense).items()
    max_L = np.array(budget.slack(space.dense)) + rows.cost_LGC(every)[(slice(None), *whole)]
    order = _removal_order(space, rows, candidate)
    best: tuple[float, int, _Cell] | None = None
    for count in range(len(order) + 1):
        removed, kept = tuple(order[:count]), _others(space, order[:count])
        gone = float(rows.value_GC(removed)[0, 0]) if removed else 0.0
        cost_LGC = rows.cost_LGC(kept) + (rows.cost_LGC(removed)[:, :1, :1] if removed else 0)
        usable_GC = allowed_GC & (cost_LGC <= max_L[:, None, None]).all(0)
        loss_GC = np.where(usable_GC, rows.value_GC(kept) + gone, np.inf)
        cell = _cell(loss_GC.argmin(), loss_GC.shape)
        if np.isfinite(loss_GC[cell]) and (best is None or loss_GC[cell] < best[0]):
            best = float(loss_GC[cell]), count, cell
    if best is None:
        return space.narrowest[0]
    _, count, cell = best
    classes = {_others(space, order[:count]): cell}
    if count:
        classes[tuple(order[:count])] = (0, 0)
    return rows.architecture(classes)


def _removal_order(space: Space, rows: _Rows, candidate: Architecture) -> list[int]:
    """Layers that may be removed: those first of which an architecture keeps least, by what it costs."""
    cells = [
        (rows.groups_G.index(groups), rows.channels_C.index(channels))
        for groups, channels in zip(candidate.groups, candidate.channels, strict=True)
    ]

    def kept_share(layer: int) -> float:
        cost_LGC = rows.cost_LGC((layer,))
        whole_L = np.maximum(cost_LGC[:, -1, -1], 1)
        return float((cost_LGC[(slice(None), *cells[layer])] / whole_L).max())

    removable = [n for n in range(space.dense.num_layers) if n != 0 and n not in space.protected]
    return sorted(removable, key=lambda n: (kept_share(n), rows.value_GC((n,))[0, 0]))


def _others(space: Space, layers: list[int]) -> _Class:
    return tuple(n for n in range(space.dense.num_layers) if n not in layers)


@dataclass(frozen=True)
class _Rows:
    """Values and costs of every layer at every width that any layer may have; no value where it may not."""

    groups_G: list[int]
    channels_C: list[int]
    attention_NG: np.ndarray
    ffn_NC: np.ndarray
    attention_cost_LNG: np.ndarray
    ffn_cost_LNC: np.ndarray

    def classes(self, candidate: Architecture) -> dict[_Class, _Cell]:
        """Layers by shape."""
        members: dict[_Cell, list[int]] = {}
        for layer, (groups, channels) in enumerate(zip(candidate.groups, candidate.channels, strict=True)):
            cell = self.groups_G.index(groups), self.channels_C.index(channels)
            members.setdefault(cell, []).append(layer)
        return {tuple(layers): cell for cell, layers in members.items()}

    def architecture(self, classes: dict[_Class, _Cell]) -> Architecture:
        cells = {layer: cell for members, cell in classes.items() for layer in members}
        ordered = [cells[layer] for layer in range(len(cells))]
        return Architecture(
            tuple(self.groups_G[g] for g, _ in ordered), tuple(self.channels_C[c] for _, c in ordered)
        )

    def value_GC(self, members: _Class) -> np.ndarray:
        """Loss of some layers at every common shape; infinite where one of them may not have it."""
        some = list(members)
        return self.attention_NG[some].sum(0)[:, None] + self.ffn_NC[some].sum(0)[None, :]

    def cost_LGC(self, members: _Class) -> np.ndarray:
        """Costs of some layers at every common shape."""
        some = list(members)
        attention_LG, ffn_LC = self.attention_cost_LNG[:, some].sum(1), self.ffn_cost_LNC[:, some].sum(1)
        return attention_LG[:, :, None] + ffn_LC[:, None, :]


def _rows(space: Space, budget: Budget, values: Values) -> _Rows:
    layers = range(space.dense.num_layers)

    def menu(kind: Kind) -> list[int]:
        return sorted({width for layer in layers for width in space.widths(layer, kind)})

    def value(kind: Kind) -> np.ndarray:
        allowed = [set(space.widths(layer, kind)) for layer in layers]
        return np.array(
            [[values[n, kind][w] if w in allowed[n] else np.inf for w in menu(kind)] for n in layers]
        )

    def cost(kind: Kind) -> np.ndarray:
        return np.array(
            [
                [[limit.cost.table[n, kind].get(w, 0) for w in menu(kind)] for n in layers]
                for limit in budget.limits
            ]
        )

    return _Rows(
        menu("attention"), menu("ffn"), value("attention"), value("ffn"), cost("attention"), cost("ffn")
    )


def _merge(rows: _Rows, classes: dict[_Class, _Cell], max_shapes: int) -> None:
    merge_cache: dict[tuple[_Class, _Class], tuple[float, _Cell]] = {}
    while len(classes) > max_shapes:
        pairs = list(combinations(classes, 2))
        for one, two in pairs:
            if (one, two) not in merge_cache:
                merge_cache[one, two] = _merged(rows, one, classes[one], two, classes[two])
        one, two = min(pairs, key=lambda pair: merge_cache[pair][0])
        _, cell = merge_cache[one, two]
        del classes[one], classes[two]
        together = tuple(sorted(one + two))
        # Two classes may come to the same shape; they are merged by the next turn, at no loss.
        classes[together] = cell


def _merged(rows: _Rows, one: _Class, cell_one: _Cell, two: _Class, cell_two: _Cell) -> tuple[float, _Cell]:
    """What merging two classes loses at best, and the shape."""
    value_one_GC, value_two_GC = rows.value_GC(one), rows.value_GC(two)
    cost_one_LGC, cost_two_LGC = rows.cost_LGC(one), rows.cost_LGC(two)
    now_L = cost_one_LGC[(slice(None), *cell_one)] + cost_two_LGC[(slice(None), *cell_two)]
    over_GC = np.maximum((cost_one_LGC + cost_two_LGC) / np.maximum(now_L, 1)[:, None, None] - 1, 0).max(0)
    value_GC = value_one_GC + value_two_GC
    inside_GC = np.where(over_GC == 0, value_GC, np.inf)
    if np.isfinite(inside_GC.min()):
        cell = _cell(inside_GC.argmin(), inside_GC.shape)
        return float(inside_GC[cell] - value_one_GC[cell_one] - value_two_GC[cell_two]), cell
    # No common shape that is not dearer: the least so, and only when nothing else can be merged.
    dearer_GC = np.where(np.isfinite(value_GC), over_GC, np.inf)
    cell = _cell(dearer_GC.argmin(), dearer_GC.shape)
    return 1e12 * (1 + float(dearer_GC[cell])), cell


def _narrow(rows: _Rows, budget: Budget, classes: dict[_Class, _Cell]) -> bool:
    """Narrow whole classes, least loss per cost saved first, until the budget holds; whether it does then."""
    while min(slack := budget.slack(rows.architecture(classes))) < 0:
        prices_L = np.array(budget.prices(slack)) * (np.array(slack) < 0)  # what counts is what is exceeded
        moves = []
        for members, (g, c) in classes.items():
            value_GC, cost_LGC = rows.value_GC(members), rows.cost_LGC(members)
            saved_GC = np.tensordot(prices_L, cost_LGC[:, g, c, None, None] - cost_LGC, 1)
            usable_GC = (saved_GC > 0) & _cross(g, c, value_GC.shape)
            loss_GC = np.where(usable_GC, value_GC - value_GC[g, c], np.inf)
            price_GC = loss_GC / np.where(usable_GC, saved_GC, 1.0)
            cell = _cell(price_GC.argmin(), price_GC.shape)
            moves.append((float(price_GC[cell]), members, cell))
        price, members, cell = min(moves)
        if not np.isfinite(price):
            return False
        classes[members] = cell
    return True


def _widen(rows: _Rows, budget: Budget, classes: dict[_Class, _Cell]) -> None:
    """Widen whole classes, best gain per cost first, while something fits."""
    slack_L = np.array(budget.slack(rows.architecture(classes)))
    prices_L = np.array(budget.prices(tuple(slack_L.tolist())))
    while True:
        moves = []
        for members, (g, c) in classes.items():
            value_GC, cost_LGC = rows.value_GC(members), rows.cost_LGC(members)
            extra_LGC = cost_LGC - cost_LGC[:, g, c, None, None]
            wider_GC = _cross(g, c, value_GC.shape)
            wider_GC[:g], wider_GC[:, :c], wider_GC[g, c] = False, False, False
            wider_GC &= np.isfinite(value_GC) & (extra_LGC <= slack_L[:, None, None]).all(0)
            gain_GC = np.where(wider_GC, value_GC[g, c] - value_GC, -np.inf)
            price_GC = np.maximum(np.tensordot(prices_L, extra_LGC, 1), _NOTHING)
            rate_GC = np.where(wider_GC, gain_GC / price_GC, -np.inf)
            cell = _cell(rate_GC.argmax(), rate_GC.shape)
            moves.append((float(rate_GC[cell]), members, cell))
        rate, members, cell = max(moves)
        if rate == -np.inf:
            return
        cost_LGC = rows.cost_LGC(members)
        slack_L = slack_L - cost_LGC[(slice(None), *cell)] + cost_LGC[(slice(None), *classes[members])]
        classes[members] = cell


def _cross(g: int, c: int, shape: tuple[int, ...]) -> np.ndarray:
    """Which shapes differ from (g, c) in one of the two widths at most [G, C]."""
    cross_GC = np.zeros(shape, dtype=bool)
    cross_GC[g], cross_GC[:, c] = True, True
    return cross_GC


def _cell(index: int | np.integer, shape: tuple[int, ...]) -> _Cell:
    g, c = np.unravel_index(int(index), shape)
    return int(g), int(c)
