"""The jobs of a server put together: store, supervisor and services."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from sqlalchemy.orm import Session, sessionmaker

from secateur.config.serve import JobOptions
from secateur.serve.jobs.operations import OperationsService
from secateur.serve.jobs.placer import Placer
from secateur.serve.jobs.service import PruneService
from secateur.serve.jobs.store import JobStore
from secateur.serve.jobs.supervisor import Supervisor
from secateur.serve.models.deployments import DeploymentManager
from secateur.serve.state_lock import folder_identity
from secateur.v1 import prune_pb2, prune_pb2_grpc

SERVICES = (
    prune_pb2.DESCRIPTOR.services_by_name["PruneService"].full_name,
    operations_pb2.DESCRIPTOR.services_by_name["Operations"].full_name,
)


class JobManager:
    """All about prune jobs that a server needs to know.

    Args:
        sessions: of the state database.
        state: its URL.
        folder: for the files of jobs; made when missing.
        deployments: the models to prune, and where results are put into service.
        roots: folders below which clients may name files.
        placer: says where jobs compute.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        state: str,
        folder: Path,
        deployments: DeploymentManager,
        roots: Sequence[Path],
        options: JobOptions,
        placer: Placer,
    ) -> None:
        folder = folder.absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = JobStore(sessions, folder_identity(folder))
        self._supervisor = Supervisor(store, state, folder, deployments, options, placer)
        self._prune = PruneService(store, self._supervisor, deployments, roots)
        self._operations = OperationsService(store, self._supervisor)

    @property
    def in_progress(self) -> int:
        """Jobs whose processes go on when the server ends."""
        return self._supervisor.in_progress

    def add_to(self, server: grpc.aio.Server) -> None:
        """Let a server answer for the jobs."""
        prune_pb2_grpc.add_PruneServiceServicer_to_server(self._prune, server)
        operations_pb2_grpc.add_OperationsServicer_to_server(self._operations, server)

    async def start(self) -> None:
        """Begin to work on jobs, those of an earlier server first."""
        await self._supervisor.start()

    async def close(self) -> None:
        """End all watches, and leave the processes of jobs to themselves."""
        self._prune.close()
        self._operations.close()
        await self._supervisor.close()
