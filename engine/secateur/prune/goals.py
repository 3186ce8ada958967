"""From what the user asked for to the space and the budget of the search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from secateur.checkpoint.configuration_secateur import stock_config
from secateur.config.prune import PruneOptions
from secateur.errors import BadInput
from secateur.model.decoder import DecoderModel, architecture_of, dense_config
from secateur.progress import ProgressReporter
from secateur.space.budget import Goal, budget_of
from secateur.space.costs.latency import LatencyTable, model_shape, read_table
from secateur.space.space import Space, parse_protected_layers


class LatencyMeter(Protocol):
    """Finds a latency table for a model: measured before, or now. `bench.latency` has one for vLLM."""

    def __call__(
        self, model: DecoderModel, dtype: str, batch: int, context: int, reporter: ProgressReporter
    ) -> LatencyTable:
        """The table of a decode step of `batch` sequences of `context` tokens, weights in `dtype`."""


def space_for(model: DecoderModel, options: PruneOptions) -> Space:
    """The space under the constraints that were asked for.

    Raises:
        BadInput: constraints that the model does not meet.
    """
    protected = parse_protected_layers(options.protect, model.num_layers)
    dense, queries = architecture_of(model), model.queries_per_group
    stock = _stock_groups(model) if options.stock else None
    return Space(dense, options.quantum, options.tp, queries, protected, options.max_shapes, stock)


def _stock_groups(model: DecoderModel) -> frozenset[int]:
    """The KV groups that the family's own class can have, the same in all layers."""
    config, layers = dense_config(model.config), model.num_layers
    channels = [config.intermediate_size] * layers
    groups = range(1, config.num_key_value_heads + 1)
    return frozenset(
        width for width in groups if stock_config(config, [width] * layers, channels) is not None
    )


def latency_table_for(
    model: DecoderModel,
    options: PruneOptions,
    dtype: str,
    meter: LatencyMeter | None,
    reporter: ProgressReporter,
) -> LatencyTable | None:
    """The table that a limit on latency needs; None without such a limit.

    Raises:
        BadInput: the file that was given is no table, or one of another model.
            Or there is no file, and nothing to measure with.
    """
    if not options.limits_latency:
        return None
    if options.latency_table is not None:
        table = read_table(options.latency_table)
        if table.conditions.model != model_shape(model):
            raise BadInput("latency_table", options.latency_table, f"measured for {table.conditions.model}")
        return table
    if meter is None:
        raise BadInput("latency_table", "nothing", "a limit on latency needs a measured table here")
    return meter(model, dtype, options.batch, options.context, reporter)


def goals_for(
    model: DecoderModel, space: Space, options: PruneOptions, table: LatencyTable | None
) -> tuple[Goal, ...]:
    """One goal for each budget that was asked for.

    Raises:
        BadInput, InfeasibleBudget: as `budget_of`; in the words of `keep` where that was used.
    """
    return tuple(
        Goal(_name(keep, limits), budget_of(model, space, limits, table, options.limits_field))
        for keep, limits in zip(options.goals, options.limits, strict=True)
    )


def _name(keep: float | None, limits: Mapping[str, float]) -> str:
    if keep is not None and len(limits) == 1:
        return f"{keep:g}"
    return ",".join(f"{kind}={fraction:.4g}" for kind, fraction in limits.items())
