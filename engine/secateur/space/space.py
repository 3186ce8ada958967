"""The search space: which widths each sub-block may take, and how many layer shapes there may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from secateur.errors import BadInput
from secateur.model.architecture import KINDS, Architecture, Kind, Slot


@dataclass(frozen=True)
class Space:
    """Allowed widths per sub-block.

    Attributes:
        dense: the architecture with nothing cut.
        quantum: channels come in multiples of this (what hardware likes); the dense width is
            always allowed, and so is 0.
        tp: ranks of the tensor parallelism to serve with; each gets whole quanta and whole heads.
        queries_per_group: query heads of a KV group; matters for `tp` alone.
        protected: layers that stay whole.
        max_shapes: most distinct layer shapes (groups, channels) of an architecture, removed
            sub-blocks included; None for no limit.
        stock_groups: KV groups that the family's own class can have in all layers; where they are given,
            all layers have one shape of them, or are removed whole.

    The first layer always keeps a KV group: a decoder needs an attention that counts the tokens (no
    runtime loads one without), and this one is the last that anybody would give up (SmolLM2: 1.9 nats).

    Raises:
        BadInput: constraints that the dense model does not meet, or that make no sense.
    """

    dense: Architecture
    quantum: int
    tp: int = 1
    queries_per_group: int = 1
    protected: frozenset[int] = frozenset()
    max_shapes: int | None = None
    stock_groups: frozenset[int] | None = None

    def __post_init__(self) -> None:
        widest = max(self.dense.channels)
        if not 1 <= self.quantum <= max(1, widest):
            raise BadInput("quantum", self.quantum, f"allowed are 1 to {widest} channels")
        _require_servable(self.dense, self.tp, self.queries_per_group)
        if self.max_shapes is not None:
            if self.max_shapes < 1:
                raise BadInput("max_shapes", self.max_shapes, "at least 1")
            if len(shapes_of(self.dense)) > 1:
                raise BadInput("max_shapes", self.max_shapes, "the layers of the dense model differ")
        if self.stock_groups is not None and len(shapes_of(self.dense)) > 1:
            raise BadInput("stock", True, "the layers of the dense model differ")

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Sub-blocks in the order of computation."""
        return tuple((layer, kind) for layer in range(self.dense.num_layers) for kind in KINDS)

    def widths(self, layer: int, kind: Kind) -> tuple[int, ...]:
        """Allowed widths of one sub-block, ascending, 0 (first attention: the least) to the dense one."""
        return self._menus[layer, kind]

    @property
    def limits_shapes(self) -> bool:
        """Whether layers may not each have a shape of their own."""
        return self.max_shapes is not None or self.stock_groups is not None

    def contains(self, candidate: Architecture) -> bool:
        """Whether every width is allowed, and there are no more layer shapes than allowed."""
        return (
            candidate.num_layers == self.dense.num_layers
            and all(candidate.width(*slot) in self.widths(*slot) for slot in self.slots)
            and (self.max_shapes is None or len(shapes_of(candidate)) <= self.max_shapes)
            and (self.stock_groups is None or self._is_stock(candidate))
        )

    def _is_stock(self, candidate: Architecture) -> bool:
        kept = shapes_of(candidate) - {(0, 0)}
        return len(kept) == 1 and all(
            groups in (self.stock_groups or ()) and channels for groups, channels in kept
        )

    @cached_property
    def narrowest(self) -> tuple[Architecture, ...]:
        """The smallest architectures; several where it depends on the cost which of them is least.

        Layers that allow the same widths are alike; with fewer shapes than there are such kinds of
        layers, some kinds have to share the narrowest shape that both allow.
        """
        if self.stock_groups is not None:
            return (self._narrowest_stock(self.stock_groups),)
        kinds: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for layer in range(self.dense.num_layers):
            kinds.setdefault(tuple(self.widths(layer, kind) for kind in KINDS), []).append(layer)
        if self.max_shapes is None or len(kinds) <= self.max_shapes:
            return (self._narrowest_of([[layer] for layer in range(self.dense.num_layers)]),)
        # At most three kinds where layers are alike: protected, first, the others.
        ways = [way for way in _partitions(list(kinds.values())) if len(way) <= self.max_shapes]
        return tuple(
            dict.fromkeys(
                self._narrowest_of([[n for layers in part for n in layers] for part in way]) for way in ways
            )
        )

    def to_json(self) -> dict[str, object]:
        """As plain values; part of a study's identity. Constraints that are not set are left out."""
        constraints = {
            "tp": self.tp if self.tp > 1 else None,
            "protected": sorted(self.protected) or None,
            "max_shapes": self.max_shapes,
            "stock": sorted(self.stock_groups) if self.stock_groups is not None else None,
        }
        constraints_set = {name: value for name, value in constraints.items() if value is not None}
        return {"dense": self.dense.to_json(), "quantum": self.quantum, **constraints_set}

    @cached_property
    def _menus(self) -> dict[Slot, tuple[int, ...]]:
        return {slot: self._menu(*slot) for slot in self.slots}

    def _menu(self, layer: int, kind: Kind) -> tuple[int, ...]:
        full = self.dense.width(layer, kind)
        if layer in self.protected:
            return (full,)
        if kind == "ffn":
            return tuple(sorted({*range(0, full, self.quantum * self.tp), full}))
        min_width = 1 if layer == 0 else 0
        between = (g for g in range(min_width, full) if not g or self._servable(g, full))
        return tuple(sorted({*between, full}))

    def _servable(self, groups: int, full: int) -> bool:
        if full >= self.tp:  # a rank keeps whole groups
            return groups % self.tp == 0
        return self.tp % groups == 0 and groups * self.queries_per_group % self.tp == 0

    def _narrowest_stock(self, stock_groups: frozenset[int]) -> Architecture:
        """The layers that have to stay, the first and protected ones, at the narrowest shape they share."""
        kept = {0, *self.protected}
        groups, channels = (
            min(
                width
                for width in self.widths(0, kind)
                if all(width in self.widths(layer, kind) for layer in kept)
                and (width in stock_groups if kind == "attention" else width > 0)
            )
            for kind in KINDS
        )
        layers = range(self.dense.num_layers)
        return Architecture(
            tuple(groups if layer in kept else 0 for layer in layers),
            tuple(channels if layer in kept else 0 for layer in layers),
        )

    def _narrowest_of(self, parts: Sequence[Sequence[int]]) -> Architecture:
        """Every part of the layers at the narrowest shape that all of its layers allow."""
        candidate = self.dense
        for part in parts:
            for kind in KINDS:
                common = set.intersection(*(set(self.widths(layer, kind)) for layer in part))
                for layer in part:
                    candidate = candidate.with_width(layer, kind, min(common))
        return candidate


def parse_protected_layers(parts: Sequence[str], num_layers: int) -> frozenset[int]:
    """Indices of the layers that are named.

    Args:
        parts: indices from 0, ``first:N`` and ``last:N``, of that form as `PruneOptions` makes sure.

    Raises:
        BadInput: a layer that the model does not have.
    """
    layers: set[int] = set()
    for part in parts:
        end, _, number = part.rpartition(":")
        count = int(number)
        if count >= num_layers + (1 if end else 0):
            raise BadInput(
                "protect", ",".join(parts), f"the model has {num_layers} layers, 0 to {num_layers - 1}"
            )
        if end == "first":
            layers.update(range(count))
        elif end == "last":
            layers.update(range(num_layers - count, num_layers))
        else:
            layers.add(count)
    return frozenset(layers)


def shapes_of(candidate: Architecture) -> set[tuple[int, int]]:
    """The distinct layer shapes (groups, channels)."""
    return set(zip(candidate.groups, candidate.channels, strict=True))


def _require_servable(dense: Architecture, tp: int, queries_per_group: int) -> None:
    """The rules of vLLM 0.32 (LlamaAttention, QKVParallelLinear).

    Query heads divide by the ranks; KV heads do, or the ranks by them (each is then replicated);
    channels divide by the ranks.
    """
    if tp < 1:
        raise BadInput("tp", tp, "at least 1 rank")
    for groups, channels in shapes_of(dense):
        heads = groups * queries_per_group
        if heads % tp:
            raise BadInput("tp", tp, f"vLLM cannot share {heads} query heads between {tp} ranks")
        if groups and groups % tp and tp % groups:
            raise BadInput("tp", tp, f"vLLM cannot share {groups} KV heads between {tp} ranks")
        if channels % tp:
            raise BadInput("tp", tp, f"vLLM cannot share {channels} channels between {tp} ranks")


def _partitions(items: list[list[int]]) -> Iterator[list[list[list[int]]]]:
    """All ways to put items into groups."""
    if not items:
        yield []
        return
    first, *rest = items
    for way in _partitions(rest):
        yield [[first], *way]
        for index, part in enumerate(way):
            yield [*way[:index], [first, *part], *way[index + 1 :]]
