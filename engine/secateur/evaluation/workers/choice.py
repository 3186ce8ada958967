"""Which evaluator a number of workers and an address ask for."""

from __future__ import annotations

from dataclasses import replace

from secateur.evaluation.spec import EvaluatorSpec
from secateur.evaluation.workers.crew import WorkerBackend
from secateur.evaluation.workers.local import ProcessBackend
from secateur.evaluation.workers.pool import WorkerPool


def open_pool(spec: EvaluatorSpec, workers: int | None = None, ray: str | None = None) -> WorkerPool:
    """A pool of local processes, or of a Ray cluster's actors; starts none of them yet.

    Args:
        spec: what one of them evaluates with; local ones share its limits for states and projections
            (each needs the dense model's distributions whole).
        workers: how many; None for one, or with Ray for one per CPU of the cluster.
        ray: address of a Ray cluster.

    Raises:
        BackendUnavailable: Ray is asked for and not installed.
        BadInput: there is no such cluster.
    """
    if ray is not None:
        from secateur.evaluation.workers.ray_crew import RayBackend

        backend: WorkerBackend = RayBackend(spec, ray, workers)
    else:
        size = workers or 1
        library = replace(spec.library, cache_bytes=spec.library.cache_bytes // size)
        share = replace(spec, library=library, state_bytes=spec.state_bytes // size)
        backend = ProcessBackend(share, size)
    return WorkerPool(backend, spec.num_chunks)
