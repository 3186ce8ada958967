"""Who is calling, and may they?"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from google.rpc import code_pb2

from secateur.errors import BadInput
from secateur.serve.failures import RpcError
from secateur.serve.guard.call import CallContext
from secateur.serve.guard.callers import Caller, CallerRegistry, Scope, read_callers

HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
# What the operator may open to everyone, by the names of `config.serve.PUBLIC_SERVICES`.
OPEN = {"health": frozenset({HEALTH}), "reflection": frozenset(REFLECTION)}

# Service -> beginnings of the methods that `infer` allows; "" = all.
INFER = {
    "secateur.v1.InferenceService": ("",),
    "secateur.v1.ModelService": ("Get", "List"),
    "inference.GRPCInferenceService": ("Server", "Model", "RepositoryIndex"),
    "vllm.grpc.engine.VllmEngine": ("Generate", "Abort", "Get", "HealthCheck"),
    HEALTH: ("",),
    **dict.fromkeys(REFLECTION, ("",)),
}


def scope_of(method: str) -> Scope:
    """Return what a caller of ``/package.Service/Method`` must have."""
    service, _, name = method[1:].rpartition("/")
    if any(name.startswith(beginning) for beginning in INFER.get(service, ())):
        return Scope.INFER
    return Scope.ADMIN


AUTHORIZATION = "authorization"
OTHERS = "certificates are read when they change, options at the start only"
log = logging.getLogger(__name__)


class AccessControl:
    """A stage that identifies callers and checks their scopes.

    Args:
        file: of the callers; None = everyone may do everything.
        open_to_all: keys of `OPEN` that need no token.

    Raises:
        BadInput: the file is not one of callers.
    """

    def __init__(self, file: Path | None = None, open_to_all: Collection[str] = ("health",)) -> None:
        self._file = file
        self._callers: CallerRegistry | None = None if file is None else read_callers(file)
        self._open = frozenset().union(*(OPEN[name] for name in open_to_all))

    def reload(self) -> None:
        """Read the file again; one that cannot be read leaves things as they are."""
        if self._file is None:
            log.info("nothing to reload: there is no file of tokens; %s", OTHERS)
            return
        try:
            self._callers = read_callers(self._file)
        except BadInput as error:
            log.error("callers not reloaded, the old ones stay: %s", error)
        else:
            log.info("callers reloaded: %d in %s; %s", len(self._callers), self._file, OTHERS)

    @contextmanager
    def __call__(self, call: CallContext) -> Iterator[None]:
        """Let the call pass, or raise `RpcError`."""
        if call.service not in self._open:
            call.caller = self._identify(call)
            scope = scope_of(call.method)
            if not call.caller.may(scope):
                raise _permission_denied(call, scope)
        yield

    def _identify(self, call: CallContext) -> Caller:
        if self._callers is not None:
            return self._callers.identify(call.metadata.get(AUTHORIZATION), sorted(call.identities))
        # With mutual TLS alone, whoever has a certificate may do everything, under its name.
        name = min(call.identities, default="")
        return Caller(name, frozenset(Scope)) if name else call.caller


def _permission_denied(call: CallContext, scope: Scope) -> RpcError:
    return RpcError(
        code_pb2.PERMISSION_DENIED,
        "SCOPE_MISSING",
        f"{call.method[1:]} needs the scope {scope.value}, which {call.caller.name} does not have",
        metadata={"scope": scope.value, "caller": call.caller.name, "method": call.method},
    )
