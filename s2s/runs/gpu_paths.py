"""The choice of a GPU's way of attention for a run: a mask, or the kernel for sequences of unequal lengths.

No machine tells beforehand whether that kernel runs, is right and is faster. So both ways go through layers of the
run's width with rows of its longest texts, and the kernel is taken only where its results and gradients are as near to
single precision as those of the mask, in less time.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from s2s.errors import first_line
from s2s.machine.paths import GPU_WAYS, computing
from s2s.machine.precision import HALVES
from s2s.model import Architecture, PrefixTransformer
from s2s.model.backbone import Shape
from s2s.randomness import forked_generators, seed_device
from s2s.recipe.recipe import Recipe
from s2s.runs.paths import timed

PATH = "gpu_attention"
MASK, VARLEN = GPU_WAYS[PATH]
FASTER = 1.05
"""How many times as fast layers must be with the kernel, so that noise decides nothing."""
MOST_COLUMNS = 1 << 14
"""The most columns of the timed batch: more change no ratio, and take memory."""


def choose_on_gpu(
    recipe: Recipe, shape: Shape, processes: int, precision: str, device: torch.device, saved: Mapping[str, str]
) -> tuple[dict[str, str], str]:
    """Return the way of attention for a run's training on a GPU, and the reason as the end of a line.

    Both are empty where there is but one way: only the prefix LM's dot products in half precision have two, and not in
    compiled blocks. A run's ``saved`` ways are kept, but for one that the recipe pins; without any they are measured.
    """
    pinned = recipe.run.paths.get(PATH)
    if pinned is not None:
        return {PATH: pinned}, f", {PATH} {pinned} (run.paths)"
    if not isinstance(shape, Architecture) or shape.attention != "dot" or not recipe.generates or recipe.run.compile:
        return {}, ""
    if device.type != "cuda" or precision not in HALVES:
        return {}, ""
    if saved:
        return {PATH: saved[PATH]} if PATH in saved else {}, ""
    source, target = recipe.data.max_source, recipe.data.max_target
    columns = min(MOST_COLUMNS, recipe.run.tokens // (processes * recipe.run.accumulate))
    way, reason = measured(shape, precision, device, max(1, columns // (source + target)), source, target)
    return {PATH: way}, f", {PATH} {way} ({reason})"


@lru_cache(maxsize=8)
def measured(
    shape: Architecture, precision: str, device: torch.device, rows: int, source: int, target: int
) -> tuple[str, str]:
    """Return the way for a number of rows of a source's and a target's columns, and why; ``shape`` has the widths."""
    shape = replace(shape, layers=2, vocabulary=64, dropout=0.0)
    with forked_generators(torch.device("cpu")):
        seed_device(0)
        model = PrefixTransformer(shape).to(device)
        ids = torch.randint(shape.vocabulary, (rows, source + target)).to(device)
        upstream = torch.randn(rows, target, shape.width).to(device)
    texts = ids.split([source, target], dim=1)
    # As in a run's batches, whose texts have about one length.
    lengths = torch.linspace(source * 3 // 4, source, rows, device=device).long()

    def work(way: str, name: str = precision) -> Callable[[], list[Tensor]]:
        def hidden_and_gradient() -> list[Tensor]:
            half = torch.autocast(device.type, HALVES.get(name), enabled=name in HALVES)
            with torch.enable_grad(), computing({PATH: way, "products": "ieee"}):
                with half:
                    hidden = model.decode(texts[1], model.encode(texts[0], lengths)).float()
                gradients = torch.autograd.grad(hidden, [*model.parameters()], upstream, allow_unused=True)
            return [hidden.detach(), torch.cat([part.flatten() for part in gradients if part is not None])]

        return hidden_and_gradient

    try:
        results = work(VARLEN)()
    except Exception as error:
        return MASK, f"{VARLEN} does not run: {first_line(error).partition('. ')[0]}"
    exact = work(MASK, "fp32")()
    distance, allowed = _distance(results, exact), 2 * _distance(work(MASK)(), exact)
    # In this form NaN is too far as well.
    if not distance <= allowed:
        return MASK, f"{VARLEN} is {distance:.1g} from single precision, where {allowed:.1g} would be rounding"
    seconds = timed({way: work(way) for way in (MASK, VARLEN)}, _seconds)
    faster = seconds[MASK] / seconds[VARLEN]
    return (VARLEN if faster > FASTER else MASK), f"{VARLEN} {faster:.2f} times as fast as {MASK}"


def _distance(results: list[Tensor], exact: list[Tensor]) -> float:
    """Return the relative distance of the hidden rows or of the gradient, whichever is greater."""
    distances = [(half - whole).norm() / whole.norm() for half, whole in zip(results, exact, strict=True)]
    return float(torch.stack(distances).max())


def _seconds(work: Callable[[], object]) -> float:
    # By the clock: a processor is free while its GPU works.
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start
