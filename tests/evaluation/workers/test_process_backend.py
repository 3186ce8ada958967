"""Processes of this machine: the laws of evaluators, and what happens when one of them, or ours, is killed.

Proven: values are those of one process to the bit; a worker killed in mid-search is replaced, nothing is
lost and nothing comes twice; one that always dies gives one line; errors come out as themselves; no
process is left, however ours ends; an evaluation broken off leaves nothing that a later one would mistake.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.errors import BadInput, SecateurError
from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.evaluation.measurement import Evaluator
from secateur.evaluation.opening import EvaluatorSpec
from secateur.evaluation.workers.backend import picklable_error
from secateur.evaluation.workers.pool import WorkerPool, open_pool
from secateur.evaluation.workers.process_backend import ProcessBackend
from secateur.space.space import Space
from tests.evaluation.conformance import EvaluatorConformance, random_architectures
from tests.evaluation.transformers_evaluator import TransformersEvaluator


@pytest.fixture(scope="module")
def backend(spec: EvaluatorSpec) -> Iterator[ProcessBackend]:
    backend = ProcessBackend(spec, 2, threads=1)
    yield backend
    backend.stop()


@pytest.fixture(scope="module")
def pool(backend: ProcessBackend, spec: EvaluatorSpec) -> WorkerPool:
    return WorkerPool(backend, spec.num_chunks)


class TestConformance(EvaluatorConformance):
    @pytest.fixture
    def evaluator(self, pool: WorkerPool) -> Evaluator:
        return pool

    @pytest.fixture
    def judge(self, library: BlockLibrary, windows: Tensor) -> Evaluator:
        return TransformersEvaluator(library, windows)


@pytest.fixture(scope="module")
def expected(library: BlockLibrary, windows: Tensor, space: Space) -> dict[object, object]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    found = dict(PrefixEvaluator(library, windows).losses(random_architectures(space, 24, seed=5)))
    torch.set_num_threads(before)
    return found


def test_values_are_those_of_one_process(
    pool: WorkerPool, space: Space, expected: dict[object, object]
) -> None:
    assert dict(pool.losses(random_architectures(space, 24, seed=5))) == expected


def test_a_killed_worker_is_replaced(
    pool: WorkerPool, backend: ProcessBackend, space: Space, expected: dict[object, object]
) -> None:
    before = pool.deaths
    found = []
    for number, item in enumerate(pool.losses(random_architectures(space, 24, seed=5))):
        found.append(item)
        if number in (2, 9):
            os.kill(backend.pids[number % 2], signal.SIGKILL)
    assert len(found) == len(expected) and dict(found) == expected
    assert pool.deaths == before + 2
    assert all(psutil.pid_exists(pid) for pid in backend.pids)


def test_one_broken_off_leaves_nothing_behind(
    pool: WorkerPool, space: Space, expected: dict[object, object]
) -> None:
    shapes = random_architectures(space, 24, seed=5)
    for chunk in range(pool.num_chunks):
        going = pool.losses(shapes, [chunk])
        next(going)
        going.close()
    assert dict(pool.losses(shapes)) == expected


def test_one_that_always_dies_is_one_line(spec: EvaluatorSpec, space: Space) -> None:
    """As when there is no memory for a model."""

    class Short(ProcessBackend):
        def start(self, worker: int) -> None:
            super().start(worker)
            os.kill(self.pids[-1], signal.SIGKILL)

    with (
        WorkerPool(Short(spec, 1), spec.num_chunks) as pool,
        pytest.raises(SecateurError, match=r"a worker died 3 times.*signal 9") as caught,
    ):
        list(pool.losses([space.dense]))
    assert "\n" not in str(caught.value)
    assert pool.deaths == 3


def test_an_error_comes_out_as_itself(spec: EvaluatorSpec, space: Space) -> None:
    with (
        open_pool(replace(spec, library=replace(spec.library, fingerprint="another")), 2) as pool,
        pytest.raises(BadInput, match="another model on the machine") as caught,
    ):
        list(pool.losses([space.dense]))
    assert caught.value.field == "model"
    assert "worker" in "".join(caught.value.__notes__)


def test_an_error_that_cannot_be_sent_comes_out_as_text() -> None:
    class Awkward(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    sent = pickle.loads(pickle.dumps(picklable_error(Awkward(1, 2), "worker 7")))
    assert "Awkward: 1 and 2" in str(sent) and "worker 7" in sent.__notes__[0]


SCRIPT = """
import pickle, sys
from pathlib import Path
from secateur.evaluation.workers.pool import open_pool
spec, shapes = pickle.loads(Path(sys.argv[1]).read_bytes())
if __name__ == "__main__":
    with open_pool(spec, 2) as pool:
        while True:
            for _ in pool.losses(shapes):
                print(*pool._backend.pids, flush=True)
"""


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGKILL, id="SIGKILL"),
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_no_worker_outlives_its_master(
    number: signal.Signals, spec: EvaluatorSpec, space: Space, tmp_path: Path
) -> None:
    (tmp_path / "spec").write_bytes(pickle.dumps((spec, random_architectures(space, 4))))
    (tmp_path / "master.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "master.py"), str(tmp_path / "spec")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as master:
        assert master.stdout is not None and master.stderr is not None
        pids = [int(pid) for pid in master.stdout.readline().split()]
        assert len(pids) == 2
        os.killpg(master.pid, number) if number == signal.SIGINT else master.send_signal(number)
        master.stdout.close()
        complaints = master.stderr.read()
    assert complaints.count("Traceback") <= 1  # of the master alone
    deadline = time.monotonic() + 20
    while any(map(psutil.pid_exists, pids)):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)
