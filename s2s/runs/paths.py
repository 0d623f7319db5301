"""The choice of a processor's tuned paths for a run: every path is timed in each of its ways, at the run's sizes.

``PATHS`` is the table. A new tuned path is a row here, its ways in ``s2s.machine.paths.WAYS``, and a look at ``way``
where it is computed.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import torch
from torch import nn

from s2s.inference import c_attention, c_code
from s2s.inference.packed_model import FEW, Layout, packed
from s2s.inference.precisions import quantised
from s2s.machine import matmul
from s2s.machine.c_library import Built
from s2s.machine.paths import WAYS, computing, way
from s2s.machine.worker_pool import kind_of_processor
from s2s.model.architecture import Architecture
from s2s.model.backbone import Shape
from s2s.model.layers import LARGE, linear
from s2s.optim import Adafactor, AdafactorSettings
from s2s.optim.adafactor import kernels
from s2s.recipe.recipe import Recipe
from s2s.runs.metadata import RunMetadata
from s2s.search.methods.base import SearchMethod

Work = Callable[[], object]
Clock = Callable[[Work], float]


BUDGET = 0.15
"""Seconds of the processor for the timings of a path, after one call of each way that does not count."""
ROUNDS = (3, 9)
"""The fewest and the most timings of each way."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a run's work on a processor; a part that the run does not compute is 0."""

    width: int
    feed_forward: int
    heads: int
    layers: int
    tokens: int = 0  # of a micro-batch of training, in float32
    sources: int = 0  # that are decoded together
    hypotheses: int = 0  # of each
    head_size: int = 0  # where every layer's attention is the dot product
    int8: bool = False  # whether decoding is in int8
    matrix: bool = False  # whether AdaFactor walks matrices of feed_forward x width


@dataclass(frozen=True)
class Path:
    """A row of ``PATHS``."""

    work: Callable[[Sizes], Work | None]
    """Return work of these sizes, built and called while one of the ways is taken; None where a run has none of it."""
    missing: Callable[[], Mapping[str, str]]
    """Return the ways that this machine lacks, with the reasons."""
    worth: float
    """How many times as fast another way must be than the first to be taken: a few percent, so that noise decides
    nothing, or more where the first one keeps a promise that another breaks."""


def _generator() -> torch.Generator:
    # Zeros would be faster than numbers on some processors.
    return torch.Generator().manual_seed(0)


def _products(sizes: Sizes) -> Work:  # noqa: ARG001 (one size for all runs: torch's switch is one for all products)
    x, weight = torch.randn(512, 512, generator=_generator()), torch.randn(1024, 512, generator=_generator())
    return lambda: x @ weight.T


def _linear(sizes: Sizes) -> Work | None:
    """Forward and backward through the wider matrix of a block."""
    rows, grow = sizes.tokens, sizes.width * sizes.feed_forward
    if rows * grow < LARGE:
        return None
    # More rows change no ratio, and cost seconds.
    rows = max(-(-LARGE // grow), min(rows, 2 * LARGE // grow))
    x = torch.randn(rows, sizes.width, generator=_generator()).requires_grad_()
    weight = torch.randn(sizes.feed_forward, sizes.width, generator=_generator()).requires_grad_()
    bias = torch.zeros(sizes.feed_forward, requires_grad=True)
    upstream = torch.randn(rows, sizes.feed_forward, generator=_generator())

    def work() -> object:
        with torch.enable_grad():
            return torch.autograd.grad(linear(x, weight, bias), (x, weight, bias), upstream)

    return work


LEAST = 1 << 22
"""The fewest multiplications of a decoding step's matrix that are timed: below, calls cost more than products."""
MOST_ROWS, MOST_ELEMENTS = 128, 1 << 23
"""The most rows and the most elements of all matrices together, so that a timing takes milliseconds."""


def _packed(sizes: Sizes) -> Work | None:
    """Multiply by the feed-forward of all layers, as a step does while all sources are searched."""
    rows = min(MOST_ROWS, sizes.sources * sizes.hypotheses)
    return _step(packed, sizes, rows) if rows * sizes.width * sizes.feed_forward >= LEAST else None


def _few(sizes: Sizes) -> Work | None:
    """Do the same for the hypotheses of the last source, or of the only one."""
    rows = min(sizes.hypotheses, FEW)
    large = sizes.sources and rows * sizes.width * sizes.feed_forward >= LEAST // 16
    return _step(packed, sizes, rows) if large and way("packed") == "onednn" else None


def _int8(sizes: Sizes) -> Work | None:
    return _step(quantised, sizes, min(sizes.hypotheses, FEW)) if sizes.int8 else None


def _step(layout: Layout, sizes: Sizes, rows: int) -> Work:
    # All layers, for a step with few rows mostly waits for matrices that no cache holds.
    maps = []
    for _ in range(max(1, min(sizes.layers, MOST_ELEMENTS // (2 * sizes.width * sizes.feed_forward)))):
        for inputs, outputs in ((sizes.width, sizes.feed_forward), (sizes.feed_forward, sizes.width)):
            maps.append(layout(torch.randn(outputs, inputs, generator=_generator()), torch.zeros(outputs)))
    start = torch.randn(rows, sizes.width, generator=_generator())

    @torch.inference_mode()
    def work() -> object:
        x = start
        for linear_map in maps:
            x = linear_map(x)
        return x

    return work


def _attention(sizes: Sizes) -> Work | None:
    """Attend as a step does in all layers, whose keys and values no cache holds together."""
    if not sizes.head_size or sizes.head_size % c_attention.LANES:
        return None
    attention = c_attention.StepAttention if way("attention") == "c" else c_attention.attention_by_torch
    # More of each changes no ratio, and costs seconds.
    layers, sources, rows, used = min(sizes.layers, 6), min(sizes.sources, 8), min(sizes.hypotheses, 8), 192
    shape = layers, sources, sizes.heads, 2, used + rows, sizes.head_size
    cache = torch.randn(shape, generator=_generator())
    mask = torch.zeros(sources, rows, used + rows)
    projected = torch.randn(sources * rows, 3 * sizes.heads * sizes.head_size, generator=_generator())

    @torch.inference_mode()
    def work() -> object:
        attend = attention(cache, mask, used)
        return [attend(layer, projected) for layer in range(layers)]

    return work


def _adafactor(sizes: Sizes) -> Work | None:
    """Update a matrix of the feed-forward."""
    if not sizes.matrix or sizes.width * sizes.feed_forward < kernels.LARGE:
        return None
    parameter = nn.Parameter(torch.randn(sizes.feed_forward, sizes.width, generator=_generator()))
    parameter.grad = torch.randn(parameter.shape, generator=_generator())
    return Adafactor([parameter], 1e-3, relative_step=False).step


def _without_onednn() -> dict[str, str]:
    return {} if torch.backends.mkldnn.is_available() else {"onednn": "this torch has no oneDNN"}


def _rounding() -> dict[str, str]:
    return {} if matmul.is_exact() else {"onednn": "it rounds on this processor"}


def _without(build: Callable[[], Built]) -> Callable[[], dict[str, str]]:
    def missing() -> dict[str, str]:
        return {} if build().functions is not None else {"c": build().reason}

    return missing


# A product in a loop is not a training step: where oneDNN's was 1.1 times as fast, attention's small products took
# twice as long, hence 1.5. With the first ways of decoding a row's bits do not depend on its batch, hence 1.2.
PATHS = {
    "products": Path(_products, _rounding, 1.5),
    "linear": Path(_linear, _without_onednn, 1.05),
    "packed": Path(_packed, _without_onednn, 1.2),
    "few": Path(_few, _without(c_code.build), 1.05),
    "int8": Path(_int8, _without(c_code.build), 1.05),
    "attention": Path(_attention, _without(c_code.build), 1.2),
    "adafactor": Path(_adafactor, _without(kernels.build), 1.05),
}
"""The tuned paths of a processor, by the names of ``WAYS``. A later one is timed with those before it chosen."""


def sizes_of(recipe: Recipe, shape: Shape, processes: int, precision: str) -> Sizes:
    """Return the sizes of a run's work in one of some processes."""
    prefix_lm = isinstance(shape, Architecture)  # models of transformers compute by its code, which has no ways
    tokens = recipe.run.tokens // (processes * recipe.run.accumulate) if prefix_lm and precision == "fp32" else 0
    decodes, optimizer = prefix_lm and recipe.generates, recipe.optimizer
    return Sizes(
        width=shape.width,
        feed_forward=shape.feed_forward,
        heads=shape.heads,
        layers=shape.layers,
        tokens=tokens,
        sources=recipe.search.batch if decodes else 0,
        hypotheses=_hypotheses(recipe.search) if decodes else 0,
        head_size=shape.width // shape.heads if decodes and getattr(shape, "attention", "") == "dot" else 0,
        int8=decodes and recipe.search.precision == "int8",
        matrix=isinstance(optimizer, AdafactorSettings) and not optimizer.beta1,
    )


def _hypotheses(search: SearchMethod) -> int:
    """Return how many hypotheses of a source a search extends at a step."""
    return next((int(count) for name in ("beams", "samples") if (count := getattr(search, name, None))), 1)


def saved_or_measured(recipe: Recipe, metadata: RunMetadata, device: torch.device) -> tuple[dict[str, str], str | None]:
    """Return the ways that a trained run takes on a device, and a line where they are not those that it saved.

    A run's own ways hold on its own kind of processor, and where it has saved none.
    """
    if device.type == "cuda":
        return {"products": matmul.kernel_on_gpu(recipe.run.tf32)[0]}, None
    if device.type != "cpu" or metadata.processor in ("", kind_of_processor()):
        return metadata.ways, None
    ways, reason = choose(sizes_of(recipe, metadata.architecture, 1, "fp32"), recipe.run.paths)
    return ways, f"its paths were measured on {metadata.processor}, so they are measured here: {reason}"


def choose(sizes: Sizes, pinned: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return the ways for work of these sizes, the pinned ones as they are, and a line that says why."""
    return _measured(sizes, tuple(sorted(pinned.items())), torch.get_num_threads())


def faster_kernel() -> str:
    """Return the faster way of float32 products on this processor: a row of ``s2s.machine.matmul.KERNELS``."""
    return choose(Sizes(0, 0, 0, 0), {})[0]["products"]


def kept(saved: Mapping[str, str], pinned: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return a run's saved ways with the pinned ones in their places, and a line that says so."""
    reasons = ", ".join(f"{path} {name} (run.paths)" for path, name in pinned.items())
    return {**saved, **pinned}, f"{BEGINNING} {kind_of_processor()}: {reasons}; the others stay"


def is_about_paths(line: str) -> bool:
    """Return whether a line of a run's report is about its paths, or about the kernel of a GPU or an early run."""
    return line.startswith((BEGINNING, "products:", "float32 products:"))


BEGINNING = "paths on"
"""The beginning of a line that says which ways were chosen."""


@lru_cache(maxsize=8)
def _measured(sizes: Sizes, pinned: tuple[tuple[str, str], ...], threads: int) -> tuple[dict[str, str], str]:  # noqa: ARG001
    # Once in a process for each number of threads: two runs of a process then take the same ways.
    chosen, reasons = dict(pinned), [f"{path} {name} (run.paths)" for path, name in pinned]
    for name, path in PATHS.items():
        if name not in chosen and (choice := _choice(name, path, sizes, chosen)):
            chosen[name], reason = choice
            reasons.append(f"{name} {chosen[name]} ({reason})")
    return chosen, f"{BEGINNING} {kind_of_processor()}: {', '.join(reasons)}"


def _choice(name: str, path: Path, sizes: Sizes, before: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the way of one path and the reason, or None where the run has no such work."""
    missing, works = path.missing(), dict[str, Work]()
    for candidate in WAYS[name]:
        if candidate not in missing:
            paths = {**before, name: candidate}
            with computing(paths):
                if (work := path.work(sizes)) is None:
                    return None
            works[candidate] = _within(paths, work)
    if missing:
        ((lacking, reason),) = missing.items()
        return next(iter(works)), f"no {lacking}: {reason}"
    seconds = timed(works)
    first, other = WAYS[name]
    faster = seconds[first] / seconds[other]
    return (other if faster > path.worth else first), f"{other} {faster:.2f} times as fast as {first}"


def timed(works: Mapping[str, Callable[[], object]], clock: Clock | None = None) -> dict[str, float]:
    """Return the processor seconds of each of some works: the median of several rounds in which they take turns.

    Time of the processor, as by the clock another process on this core could make any of them look slow; in turns,
    as such a process also takes from the caches. ``clock`` returns the seconds of a call that has another time.
    """
    clock = clock or _seconds
    once = {name: clock(work) for name, work in works.items()}
    few, most = ROUNDS
    # The first call may have made room, compiled or packed; a second one says how many rounds the budget allows.
    once = {name: min(once[name], clock(work)) for name, work in works.items()}
    rounds = int(min(most, max(few, BUDGET / max(sum(once.values()), 1e-9))))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(clock(work))
    return {name: median(values) for name, values in seconds.items()}


def _seconds(work: Callable[[], object]) -> float:
    # Of all threads: some ways share their work among threads of their own.
    start = time.process_time()
    work()
    return time.process_time() - start


def _within(paths: Mapping[str, str], work: Work) -> Work:
    def within() -> object:
        with computing(paths):
            return work()

    return within
