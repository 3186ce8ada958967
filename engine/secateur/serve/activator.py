"""What jobs may do with the models of a server: find one to prune, put a result into service."""

from __future__ import annotations

from pathlib import Path

from secateur.serve.failures import unavailable
from secateur.serve.models.deployments import DeploymentManager
from secateur.serve.models.pool import ModelPool


class ModelActivator:
    """The `jobs.activation.Activator` of a server."""

    def __init__(self, pool: ModelPool, deployments: DeploymentManager) -> None:
        self._pool = pool
        self._deployments = deployments

    def folder(self, model: str) -> Path:
        """The checkpoint folder of a model's active version.

        Raises:
            Refused: there is no such model, or it is only being looked at.
        """
        checkpoint = self._pool.find(model).checkpoint
        if checkpoint is None:
            raise unavailable("MODEL_LOADING", f"{model} is still loading", 1.0)
        return checkpoint.folder

    async def load(self, model: str, folder: Path) -> str:
        """Load a checkpoint as a version of a model; one that it has already is not added again.

        Raises:
            Refused: it cannot be loaded.
        """
        return await self._deployments.load(model, folder)

    async def activate(self, model: str, version: str) -> None:
        """Let a version answer from now on.

        Raises:
            Refused: it cannot.
        """
        await self._deployments.activate(model, version)
