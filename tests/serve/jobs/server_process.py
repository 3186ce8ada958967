"""A server with jobs and no engine: ``server_process.py STATE_DIR ROOT MODEL_FOLDER``.

Real gRPC, store, supervisor and job processes; only models are not loaded. What would be loaded and
activated is written to STATE_DIR/activations.txt; loading "broken" is refused.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import grpc
from google.rpc import code_pb2
from grpc_reflection.v1alpha import reflection

from secateur.config.serve import JobOptions
from secateur.serve.failures import RpcError
from secateur.serve.guard.interceptor import GuardInterceptor
from secateur.serve.jobs.manager import SERVICES, JobManager
from secateur.serve.jobs.placer import Placer
from secateur.serve.state import open_state


class Models:
    """Two models, "dense" and "broken", in the same folder."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self._log = folder, log

    def checkpoint_folder(self, model: str) -> Path:
        if model not in ("dense", "broken"):
            raise RpcError(
                code_pb2.NOT_FOUND, "MODEL_NOT_FOUND", f"no model {model!r}; there are: broken, dense"
            )
        return self._folder

    async def load(self, model: str, folder: Path) -> str:
        if model == "broken":
            raise RpcError(code_pb2.RESOURCE_EXHAUSTED, "NO_MEMORY", "no room for another engine")
        self._note(f"load {model} {folder}")
        return "2"

    async def activate(self, model: str, version: str) -> None:
        self._note(f"activate {model} {version}")

    def _note(self, line: str) -> None:
        with self._log.open("a") as stream:
            stream.write(line + "\n")


async def serve(state_dir: Path, root: Path, model: Path) -> None:
    url = os.environ.get("TEST_STATE_URL") or f"sqlite:///{state_dir}/server.db"
    models = Models(model, state_dir / "activations.txt")
    options = JobOptions(back_off_seconds=0.2, nice=0)
    jobs = JobManager(open_state(url), url, state_dir / "jobs", models, (root,), options, Placer(1))
    server = grpc.aio.server(interceptors=[GuardInterceptor()])
    jobs.add_to(server)
    reflection.enable_server_reflection((*SERVICES, reflection.SERVICE_NAME), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await jobs.start()
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await jobs.close()
    await server.stop(grace=1)


if __name__ == "__main__":
    asyncio.run(serve(*map(Path, sys.argv[1:])))
