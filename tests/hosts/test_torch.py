"""`torch.multiprocessing`: pools of the standard library whose pickler puts tensors into shared memory.

``torch.multiprocessing.Pool`` is the one of `multiprocessing`, so it needs no
adapter; its reductions are what is tested.
"""

from __future__ import annotations

import multiprocessing.pool
from collections.abc import Iterator
from multiprocessing import resource_sharer
from pathlib import Path
from typing import Any

import pytest

from poolwarden import TaskTimeoutError, WorkerLostError, guard
from poolwarden.testing import hang, kill_self, once
from tests.contract.base import ContractBase, Pools
from tests.contract.waiting import DEADLINE
from tests.hosts.bind_pool import BindPool

torch = pytest.importorskip("torch")
host = pytest.importorskip("torch.multiprocessing")


class BindTorch(BindPool):
    """``torch.multiprocessing.Pool``."""

    def make_bare(self, workers: int = 2, start_method: str | None = None, **options: Any) -> Any:
        assert not options.pop("nesting", False)
        return host.get_context(start_method).Pool(workers, **options)


def double(tensor: Any) -> Any:
    return tensor * 2


def fill(tensor: Any) -> None:
    tensor.fill_(7)


def total(tensor: Any) -> float:
    return float(tensor.sum())


@pytest.mark.every_start_method
class TestTorch(ContractBase):
    """Tensors as arguments and results."""

    binding = BindTorch

    @pytest.fixture(autouse=True)
    def _torch(self) -> Iterator[None]:
        torch.set_num_threads(1)  # the others would not be there in a fork
        yield
        resource_sharer.stop(DEADLINE)  # the thread that hands descriptors over

    def test_tensors_go_there_and_back(self, make_pool: Pools) -> None:
        pool = make_pool()
        assert isinstance(pool, multiprocessing.pool.Pool)
        for size in (3, 1_000_000):
            for doubled in pool.map(double, [torch.ones(size)] * 4, 2):
                assert doubled.sum().item() == 2 * size

    def test_a_tensor_is_shared_and_not_copied(self, make_pool: Pools) -> None:
        tensor = torch.zeros(1_000_000)
        make_pool(1).apply(fill, (tensor,))
        assert tensor.is_shared()
        assert tensor[-1].item() == 7

    def test_a_lost_and_a_stuck_task_fail_alone(self, make_pool: Pools) -> None:
        pool = make_pool()
        arguments = [torch.full((1000,), float(number)) for number in range(8)]
        right = [1000.0 * number for number in range(8)]
        lost = pool.apply_async(kill_self())
        others = pool.map_async(total, arguments, 1)
        with pytest.raises(WorkerLostError):
            lost.get(DEADLINE)
        assert others.get(DEADLINE) == right
        guard(pool, timeout=0.2)
        with pytest.raises(TaskTimeoutError):
            pool.apply_async(hang()).get(DEADLINE)
        guard(pool)
        assert pool.map(total, arguments, 1) == right

    def test_a_call_with_a_descriptor_is_not_run_again(self, make_pool: Pools, tmp_path: Path) -> None:
        pool = make_pool(retries=1)
        with pytest.raises(WorkerLostError):
            pool.apply_async(once(tmp_path / "lost", kill_self(), total), (torch.ones(10),)).get(DEADLINE)
        assert pool.apply_async(once(tmp_path / "again", kill_self(), abs), (-3,)).get(DEADLINE) == 3
