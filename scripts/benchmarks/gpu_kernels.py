"""Checks of a card's kernels: products, attention with odd strides and masks, compiled blocks, the fused loss."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend

from benchmarks.gpu_card import DEVICE, PRECISIONS, WAYS, Card, Row, Rows, Trainer, apart, seconds
from benchmarks.timing import random_batch
from s2s.batch import Batch
from s2s.errors import UserError
from s2s.losses.fused_loss import fused_loss, require
from s2s.losses.vocabulary_loss import vocabulary_loss
from s2s.machine.paths import computing
from s2s.machine.precision import HALVES
from s2s.model.attention import softmax_attention, split_heads
from s2s.objective import Objective, ObjectiveSettings
from s2s.runs.gpu_paths import measured

COLUMNS = (37, 64, 101, 255)
"""Numbers of keys, most of which are no multiples of 8."""
QUERIES = 19


def peak(card: Card) -> Rows:
    """Measure a large product in each precision; float32 as runs compute it."""
    size = card.sizes.product
    for precision in PRECISIONS:
        matrix = torch.randn(size, size, device=DEVICE, dtype=HALVES.get(precision, torch.float32))
        with computing(WAYS):
            taken = seconds(partial(torch.mm, matrix, matrix), 5 * card.sizes.rounds)
        card.peaks[precision] = 2 * size**3 / taken
        name = "fp32 (TF32)" if precision == "fp32" else precision
        yield Row(f"product of {size} x {size}, {name}", f"{card.peaks[precision] / 1e12:.1f} TFLOP/s")


def attention(card: Card) -> Rows:
    """Name the kernels that our masks get, compare odd strides with double precision, and try to do without masks."""
    sizes = card.sizes
    model = card.model()
    objective = Objective(model, ObjectiveSettings())
    batch = random_batch(sizes.lengths()[: sizes.rows], sizes.vocabulary).to(DEVICE)
    for precision in PRECISIONS:
        for kind, times in _kernels(objective, batch, precision).items():
            yield Row(f"calls in an update, {precision}", f"{times} x {kind}")
    for precision in PRECISIONS:
        dtype = HALVES.get(precision, torch.float32)
        distances = [_distance(card, columns, dtype) for columns in COLUMNS]
        case = f"{', '.join(map(str, COLUMNS))} columns, {precision}"
        yield Row(case, f"results and gradients within {max(distances):.1g} of double precision")
    for precision in HALVES:
        way, reason = measured(model.shape, precision, DEVICE, sizes.rows, sizes.source, sizes.target)
        yield Row(f"with masks or without, {precision}", f"{way}: {reason}")


def _kernels(objective: Objective, batch: Batch, precision: str) -> Counter[str]:
    """Count the calls of attention in an update by kernel, and by the mask that it gets."""
    counts, attend = Counter[str](), functional.scaled_dot_product_attention

    def counted(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *more: Any, **named: Any
    ) -> Tensor:
        # Autocast converts all of them within the call, where the kernel is chosen.
        dtype = HALVES.get(precision, query.dtype)
        asked: Any = [None if part is None else part.to(dtype) for part in (query, key, value, attn_mask)]
        backend = SDPBackend(torch._fused_sdp_choice(*asked, *more, **named))
        mask = "no mask" if attn_mask is None else f"a mask in {attn_mask.dtype}, strides {attn_mask.stride()}"
        counts[f"{backend.name}, {mask}"] += 1
        return attend(query, key, value, attn_mask, *more, **named)

    with _replaced(counted), computing(WAYS):
        with torch.autocast(DEVICE.type, HALVES.get(precision), enabled=precision in HALVES):
            loss = objective(batch).total
        loss.backward()
    return counts


@contextmanager
def _replaced(function: Callable[..., Tensor]) -> Iterator[None]:
    before = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = function
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = before


def _distance(card: Card, columns: int, dtype: torch.dtype) -> float:
    """Compare attention of rows that are slices of one matrix, as in a block, with the same in double precision."""
    width, heads = card.sizes.width, card.sizes.heads
    generator = torch.Generator().manual_seed(columns)
    fused = torch.randn(3, columns, 3 * width, generator=generator, dtype=torch.float64)
    mask = torch.zeros(3, 1, 1, columns, dtype=torch.float64)
    mask[1, ..., columns // 2 :] = -torch.inf
    results = []
    for device, kind in ((torch.device("cpu"), torch.float64), (DEVICE, dtype)):
        rows = fused.detach().to(device, kind, copy=True).requires_grad_()
        query, key, value = (split_heads(part, heads) for part in rows.chunk(3, dim=-1))
        rows_out = softmax_attention(query[:, :, :QUERIES], key, value, mask.to(device, kind))
        rows_out.double().square().sum().backward()
        assert rows.grad is not None
        results.append([rows_out, rows.grad])
    return max(apart([first], [second]) for first, second in zip(*results, strict=True))


def compiled(card: Card) -> Rows:
    """Train with ``run.compile`` and without, and compare the losses of the first updates and their times."""
    if find_spec("triton") is None:
        raise UserError("run.compile needs Triton, which is not installed")
    tokens, times, losses = card.sizes.updates[0], [], []
    for compile_blocks in (False, True):
        trainer = Trainer(card, "bf16", tokens, 1, compile_blocks)
        with trainer.steps() as step:
            losses.append(torch.tensor([step()["loss"] for _ in range(2)]))
            times.append(seconds(step, card.sizes.rounds))
    case = f"bf16, {tokens:,} tokens an update"
    yield Row(case, f"{times[1] / times[0]:.2f} of the time; losses within {apart([losses[0]], [losses[1]]):.1g}")


def fused(card: Card) -> Rows:
    """Compare Liger's loss with ours in result, gradients and time."""
    require(DEVICE)
    sizes = card.sizes
    generator = torch.Generator().manual_seed(0)
    shapes = [(max(sizes.updates) // 10 + 1, sizes.width), (sizes.vocabulary, sizes.width), (sizes.vocabulary,)]
    parts = [torch.randn(shape, generator=generator).mul(0.1).to(DEVICE).requires_grad_() for shape in shapes]
    labels = torch.randint(sizes.vocabulary, shapes[0][:1], generator=generator).to(DEVICE)
    results, times = [], []
    for loss in (vocabulary_loss, fused_loss):

        def work(loss: Any = loss) -> list[Tensor]:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                value = loss(*parts, labels, 0.1)[0]
            return [value, *torch.autograd.grad(value, parts)]

        results.append(work())
        times.append(seconds(work, sizes.rounds))
    case = f"bf16, {len(labels):,} labels, {sizes.vocabulary:,} pieces"
    yield Row(case, f"{times[1] / times[0]:.2f} of the time; within {apart(results[0], results[1]):.1g}")
