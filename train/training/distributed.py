"""Data-parallel training under torchrun: rank, collectives and error reporting.

In a single process every function here is the identity, so callers need no special case. Gloo carries CPU tensors,
NCCL GPU tensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from attri.runtime.errors import AttriError

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process, 0 in a single one."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Return the number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group that torchrun announces in the environment, if any, and leave it at the end."""
    if not dist.is_torchelastic_launched():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def on_rank_zero(make: Callable[[], T]) -> T:
    """Call `make` on rank 0 only and return its value on every rank.

    Raises:
        AttriError: what `make` raised on rank 0, on every rank, so that none waits for a process that has ended.
    """
    if size() == 1:
        return make()
    box: list[Any] = [None, None]  # value, error
    if rank() == 0:
        try:
            box[0] = make()
        except AttriError as error:
            box[1] = error
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    if box[1] is not None:
        raise box[1]
    value: T = box[0]
    return value


def any_rank(*flags: bool) -> list[bool]:
    """Return for each flag whether it is set on any rank."""
    if size() == 1:
        return list(flags)
    x = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(x, dist.ReduceOp.MAX)
    return [bool(flag) for flag in x]


@contextmanager
def report_once() -> Iterator[None]:
    """Raise errors on rank 0 only; other ranks exit silently with the same code."""
    try:
        yield
    except (AttriError, KeyboardInterrupt) as error:
        if rank() == 0:
            raise
        raise SystemExit(error.exit_code if isinstance(error, AttriError) else 130) from error


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in their order, on every rank. Tensors in it must be on the CPU."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def mean(x: Tensor) -> Tensor:
    """Return the mean over ranks. x must be on the CPU."""
    if size() > 1:
        dist.all_reduce(x)
    return x / size()


def concatenate(x: Tensor, counts: list[int]) -> Tensor:
    """Concatenate rows of all ranks, counts[r] from rank r. [counts[rank], ...] -> [sum(counts), ...].

    Differentiable: the gradient is the sum over ranks, as if one process had computed everything.
    """
    joined: Tensor = _Concatenate.apply(x, counts) if size() > 1 else x
    return joined


class _Concatenate(torch.autograd.Function):
    """Rows are padded to the largest count, since collectives want equal shapes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])]).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return torch.split(gradient, ctx.counts)[rank()], None
