"""What grpc.health.v1 says: per model as ``model/NAME``, per service, and for the whole server ("")."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from grpc_health.v1 import health, health_pb2

from secateur.serve.models.pool import ModelPool
from secateur.serve.models.version import VersionState

UP = health_pb2.HealthCheckResponse.SERVING
DOWN = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthReporter:
    """Tells the health service what becomes of a pool.

    A model is up while its active version answers; services and server are while every model does that
    should.
    """

    def __init__(self, status: health.aio.HealthServicer, pool: ModelPool, services: Sequence[str]) -> None:
        self._status = status
        self._pool = pool
        self._services = ("", *services)
        self._reported: set[str] = set()
        self._changes = asyncio.Event()
        pool.changed = self._changes.set

    async def follow(self) -> None:
        """Report every change; go on until cancelled."""
        while True:
            await self._changes.wait()
            self._changes.clear()
            await self.report()

    async def report(self) -> None:
        models = dict(self._pool.models)
        for name in self._reported - set(models):
            await self._status.set(f"model/{name}", UNKNOWN)
        self._reported = set(models)
        for name, model in models.items():
            active_version = model.active_version
            up = active_version is not None and active_version.state is VersionState.SERVING
            await self._status.set(f"model/{name}", UP if up else DOWN)
        for service in self._services:
            await self._status.set(service, UP if self._pool.up else DOWN)
