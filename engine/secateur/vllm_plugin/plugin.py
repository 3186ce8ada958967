"""Entry point ``vllm.general_plugins``: teaches vLLM to load per-layer checkpoints.

vLLM calls `register` in every process it starts (front end, engine core, workers), so it must be
cheap and repeatable; the model class is named, not imported, until a checkpoint asks for it.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from multiprocessing import parent_process

SERVER_PID = "SECATEUR_SERVER_PID"
"""Set by `secateur serve` to its process id: engines are to end with it."""

POLL_SECONDS = 1.0


def register() -> None:
    """Make known the configuration class and, lazily, the model class. May be called repeatedly."""
    from vllm import ModelRegistry

    from secateur.vllm_plugin.cpu_norms import register_norms

    register_config()
    ModelRegistry.register_model("SecateurForCausalLM", "secateur.vllm_plugin.model:SecateurForCausalLM")
    register_norms()
    if parent_process() is not None:  # an engine, and not the front end, which would import it for nothing
        from secateur.vllm_plugin.seeded_requests import patch_seeded_requests

        patch_seeded_requests()
    _watch_server()


def register_config() -> None:
    """Let ``AutoConfig``, and with it ``AutoTokenizer`` and vLLM, know per-layer checkpoints.

    The code inside them is then not asked for. May be called repeatedly.
    """
    from transformers import AutoConfig

    from secateur.checkpoint.configuration_secateur import SecateurConfig

    AutoConfig.register(SecateurConfig.model_type, SecateurConfig, exist_ok=True)


def _watch_server() -> None:
    """In an engine started by `secateur serve`: end when the server is gone.

    vLLM's engine does not notice a parent that was killed; it would keep its memory for ever. (The
    kernel's parent-death signal is no help: it fires already when the thread that started us ends.)
    """
    server = os.environ.get(SERVER_PID)
    if server and os.getppid() == int(server):
        atexit.register(_exit_now)
        threading.Thread(target=_exit_with_parent, args=(int(server),), daemon=True).start()


def _exit_now() -> None:
    """End now. Python would first take its modules apart, which takes an engine up to ten seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
