"""One engine, and beside it in the same process and event loop our gRPC server and vLLM's HTTP server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.serving_overhead.ways import MODEL
from secateur.config.serve import KeepaliveOptions, LimitOptions, ObserveOptions
from secateur.serve.engine.engine import Engine
from secateur.serve.guard.access import AccessControl
from secateur.serve.guard.channel import bind_server, channel_options
from secateur.serve.guard.interceptor import GuardInterceptor
from secateur.serve.guard.limits import RateLimiter
from secateur.serve.inference.service import InferenceService
from secateur.serve.models.pool import ModelPool
from secateur.serve.observe.observation import observing
from secateur.v1 import inference_pb2_grpc


@asynccontextmanager
async def grpc_server(engine: Engine) -> AsyncIterator[str]:
    """Serve as `secateur serve` does by default, with all that every call goes through."""
    pool = ModelPool([MODEL])
    pool.model(MODEL).find().loaded(engine)
    async with observing(ObserveOptions(), None, lambda: ()) as observers:
        guard = GuardInterceptor(observers, [AccessControl(), RateLimiter(LimitOptions())])
        settings = channel_options(LimitOptions(), KeepaliveOptions())
        server = grpc.aio.server(interceptors=[guard], options=settings)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(InferenceService(pool), server)
        address = bind_server(server, "127.0.0.1:0")
        await server.start()
        try:
            yield address
        finally:
            await server.stop(0)


@asynccontextmanager
async def http_server(vllm: Any, folder: Path) -> AsyncIterator[str]:
    """Serve vLLM's OpenAI app on the same engine."""
    import uvicorn
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(
        ["--model", str(folder), "--served-model-name", MODEL]
    )
    tasks = await vllm.get_supported_tasks()
    app = build_app(arguments, tasks, vllm.model_config)
    await init_app_state(vllm, app.state, arguments, tasks)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
