"""Which server a command talks to, and how: the options that all such commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import Given, takes_options
from secateur.config.connection import ConnectionOptions
from secateur.config.option import declared

if TYPE_CHECKING:
    from secateur.client import Client
    from secateur.client.endpoint import Endpoint

T = TypeVar("T")


def connect(given: Given) -> Client:
    """A client of the server that the options name.

    Raises:
        BadInput: they do not fit together, or a file cannot be read.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with exit_on_interrupt_during_import():
        from secateur.client import Client

    return Client(**{"target": ConnectionOptions.target, **given})


def with_client(command: Callable[..., T]) -> Callable[..., T]:
    """Make a command of a function with an argument `client`: it gets the options of a connection instead."""

    @functools.wraps(command)
    def connected(client: Given, **rest: Any) -> T:
        with connect(client) as connection:
            return command(client=connection, **rest)

    return takes_options(ConnectionOptions, argument="client")(connected)


def endpoint_arguments(endpoint: Endpoint) -> list[str]:
    """The arguments that lead to an endpoint again, without its token."""
    arguments: list[str] = []
    for declaration in declared(ConnectionOptions):
        value = declaration.value_in(endpoint)
        if declaration.name not in ("token", "timeout", "wait_for_ready") and value != declaration.default:
            arguments += [declaration.flag] if value is True else [declaration.flag, str(value)]
    return arguments
