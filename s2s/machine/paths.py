"""The tuned paths of a processor: work that has a way of ours or of oneDNN, and torch's own way.

Which way is faster depends on the processor and on the sizes, so both are timed and the choice is saved with a run
(``s2s.runs.paths`` has the table). Code that has two ways asks ``way`` which one to take; ``computing`` sets it for
everything that is called within. Ways differ in the last bits.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")

WAYS: dict[str, tuple[str, ...]] = {
    "products": ("default", "onednn"),  # torch's float32 products
    "linear": ("onednn", "torch"),  # large linear maps of training
    "packed": ("onednn", "torch"),  # linear maps of decoding
    "few": ("onednn", "c"),  # those of a step with few rows, where ``packed`` is oneDNN's; both have the same bits
    "int8": ("c", "onednn"),  # linear maps of decoding in int8; both have the same bits
    "attention": ("c", "torch"),  # a decoding step's attention
    "adafactor": ("c", "torch"),  # AdaFactor's passes over large matrices
}
"""The ways of each path. The first is taken where nothing else was chosen, and where both are about as fast."""

GPU_WAYS: dict[str, tuple[str, ...]] = {
    "gpu_attention": ("mask", "varlen"),  # training in half precision: padding is masked, or left out
}
"""The same on a GPU."""

KERNELS = {"default": "none", "onednn": "bf16"}
"""The kernels of CPUs, with the value of torch's ``mkldnn.matmul.fp32_precision`` that selects each."""

GPU_KERNELS = {"tf32": True, "ieee": False}
"""The kernels of GPUs, and whether TF32 is allowed: float32 products of numbers rounded to 10 bits, much faster."""

_current: ContextVar[Mapping[str, str]] = ContextVar("paths", default={})  # noqa: B039 (nobody writes into it)


def way(path: str) -> str:
    """Return the way that a path takes here."""
    return _current.get().get(path, (WAYS | GPU_WAYS)[path][0])


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Compute float32 products with the named kernel, of a CPU or a GPU, and restore torch's settings at the end."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    on_gpu: Any = torch.backends.cuda.matmul
    before, before_on_gpu = matmul.fp32_precision, on_gpu.fp32_precision
    matmul.fp32_precision = KERNELS["default" if name in GPU_KERNELS else name]
    if name in GPU_KERNELS:
        on_gpu.allow_tf32 = GPU_KERNELS[name]
    try:
        yield
    finally:
        matmul.fp32_precision = before
        if name in GPU_KERNELS:
            # torch's older switch must agree with the newer one, or reading it raises an error.
            on_gpu.allow_tf32 = before_on_gpu == "tf32"
            on_gpu.fp32_precision = before_on_gpu


@contextmanager
def computing(paths: Mapping[str, str]) -> Iterator[None]:
    """Take these ways within; paths that have no entry take their first one. ``products`` may name a GPU's kernel."""
    token = _current.set(dict(paths))
    try:
        with kernel(paths.get("products", WAYS["products"][0])):
            yield
    finally:
        _current.reset(token)


def stepwise(paths: Mapping[str, str], items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, each computed by these ways; while the caller uses one, its own settings hold."""
    iterator = iter(items)
    while True:
        with computing(paths):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
