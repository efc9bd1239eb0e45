"""Rows on a batch in parts. PyTorch's module gets the whole batch in one process, which its parts must equal."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from numbanorm import BatchNorm, GradientSums, Moments
from tests.beside_torch.both import DY, X, assert_close, assert_same, assert_same_state, run_theirs, set_parameters
from tests.beside_torch.table import topic

row = topic("A batch in parts")

PARTS = slice(0, 4), slice(4, 4), slice(4, 6)  # one is empty


class Group:
    """Threads that add up what each gives, in place of processes."""

    def __init__(self, size):
        self._given, self._barrier = [None] * size, Barrier(size, timeout=30)

    def all_reduce_of(self, rank):
        def all_reduce(value):
            self._given[rank] = value
            self._barrier.wait()
            total = sum(self._given[1:], self._given[0])
            self._barrier.wait()
            return total

        return all_reduce


@row(
    "a batch that is spread over processes",
    "`SyncBatchNorm(3, process_group=group)`, on GPUs",
    "`BatchNorm(3, all_reduce=comm.allreduce)`, of mpi4py or any other",
    "any function that sums over the processes; `grads` are those of each process's own part",
)
def synchronised(torch):
    module, group = torch.nn.SyncBatchNorm(3), Group(len(PARTS))
    layers = [BatchNorm(3, all_reduce=group.all_reduce_of(rank)) for rank in range(len(PARTS))]
    for layer in layers:
        set_parameters(module, layer)
    theirs = run_theirs(torch, module)

    def work(layer, part):
        return layer(X[part]), layer.backward(DY[part])

    with ThreadPoolExecutor(len(PARTS)) as pool:
        ours = [*pool.map(work, layers, PARTS)]
    for arrays, expected in zip(zip(*ours, strict=True), theirs, strict=True):
        assert_close(np.concatenate(arrays), expected)
    for layer in layers:
        assert_same_state(module, layer)
    for name in ("weight", "bias"):
        assert_close(sum(layer.grads[name] for layer in layers), getattr(module, name).grad)


@row(
    "synchronise an existing layer",
    "`SyncBatchNorm.convert_sync_batchnorm(net)`",
    "`layer.all_reduce = f`",
    "an attribute",
)
def converted(torch):
    module, layer, given = torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.BatchNorm1d(3)), BatchNorm(3), []
    layer.all_reduce = lambda value: given.append(type(value)) or value
    assert_same(torch, module, layer)
    assert given == [Moments, GradientSums]


@row(
    "micro-batches of one process as one batch",
    "none",
    "`ys, saved = layer.forward_parts(xs)`, `layer.backward(dys, saved)`",
    "a method",
)
def micro_batches(torch):
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3)
    set_parameters(module, layer)
    theirs = run_theirs(torch, module)
    ys, saved = layer.forward_parts([X[part] for part in PARTS])
    dxs = layer.backward([DY[part] for part in PARTS], saved)
    for arrays, expected in zip((ys, dxs), theirs, strict=True):
        assert_close(np.concatenate(arrays), expected)
    for name, gradient in layer.grads.items():
        assert_close(gradient, getattr(module, name).grad)
    assert_same_state(module, layer)


@row("in evaluation", "processes need nothing of each other", "processes need nothing of each other")
def in_evaluation(torch):
    layer = BatchNorm(3, all_reduce=lambda _: pytest.fail("called in evaluation"))
    assert_same(torch, torch.nn.SyncBatchNorm(3).eval(), layer.eval())
