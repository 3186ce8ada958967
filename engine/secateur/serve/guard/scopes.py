"""Which scope each method needs. What is not listed needs ``admin``: a new service starts out closed."""

from __future__ import annotations

from secateur.serve.guard.callers import Scope

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
