"""Speed, memory and waits of a card: updates of training, and steps of a beam."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmarks.decoders import Ids
from benchmarks.gpu_card import PRECISIONS, WAYS, Card, Row, Rows, Sizes, Trainer, seconds
from benchmarks.peers import Shape
from benchmarks.systems import useful_work
from benchmarks.timing import random_pairs
from s2s.errors import UserError, first_line
from s2s.inference.generate import generate
from s2s.machine.paths import computing
from s2s.search.methods.beam import SearchSettings

PARTS = (1, 2, 4, 8)
"""Micro-batches of an update: the first number that the memory holds is taken."""
WARM = 2
"""Updates that do not count: the first ones also allocate the state of the optimizer."""
BEAMS = 4
WAIT = "synchroniz"
"""A part of each warning by which torch tells of a wait."""


def training(card: Card) -> Rows:
    """Time updates in each precision and size; the share is that of the product's speed in the same precision."""
    for precision in PRECISIONS:
        for tokens in card.sizes.updates:
            yield Row(f"{precision}, {tokens:,} tokens an update", _timed(card, precision, tokens))


def _timed(card: Card, precision: str, tokens: int) -> str:
    reason = ""
    for parts in PARTS:
        try:
            return _measured(card, precision, tokens, parts)
        except UserError as error:
            reason = first_line(error)
        # After the block, since an error keeps alive all that its frames hold.
        torch.cuda.empty_cache()
        if "out of memory" not in reason:
            break
    return f"left out: {reason}"


def _measured(card: Card, precision: str, tokens: int, parts: int) -> str:
    trainer = Trainer(card, precision, tokens, parts)
    torch.cuda.reset_peak_memory_stats()
    with trainer.steps() as step:
        for _ in range(WARM):
            step()
        records = []
        taken = seconds(lambda: records.append(step()), card.sizes.rounds)
    useful = sum(record["source_tokens"] + record["target_tokens"] for record in records) / len(records)
    work = useful * operations(card.sizes)
    share = f"{work / taken / card.peaks[precision]:.0%} of the peak" if precision in card.peaks else "peak unknown"
    memory = torch.cuda.max_memory_allocated() / 2**30
    speed = f"{1000 * taken:.1f} ms, {useful / taken:,.0f} tokens/s, {share}, {memory:.1f} GiB"
    return speed if parts == 1 else f"{speed}, in {parts} micro-batches"


def operations(sizes: Sizes) -> float:
    """Return the least floating-point operations of training on a token, of the examples' mean lengths."""
    shape = Shape(sizes.vocabulary, sizes.width, sizes.layers, sizes.heads, sizes.longest, 0.0, 0.0)
    lengths = sizes.lengths()
    return useful_work("s2s", shape, lengths) / float(lengths.sum())


def waits(card: Card) -> Rows:
    """Count how often the processor waits for the GPU in an update, and in the steps of a beam."""
    for precision in PRECISIONS:
        trainer = Trainer(card, precision, card.sizes.updates[0], 1)
        with trainer.steps() as step:
            for _ in range(WARM):
                step()
            with _counted() as places:
                step()
        yield Row(f"an update, {precision}", _named(places))
    search = _search(card, "bf16", card.sizes.batches[-1])
    search()
    with _counted() as places:
        search()
    yield Row(f"{card.sizes.new_tokens} steps of {BEAMS} beams, bf16", _named(places))


@contextmanager
def _counted() -> Iterator[Counter[str]]:
    """Count the waits within by their places in the code; torch names them in warnings."""
    places = Counter[str]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places.update(
        f"{Path(warning.filename).name}:{warning.lineno}" for warning in caught if WAIT in str(warning.message)
    )


def _named(places: Counter[str]) -> str:
    if not places:
        return "0 waits"
    most = ", ".join(f"{times} x {line}" for line, times in places.most_common(5))
    return f"{places.total()} waits ({most})"


def decoding(card: Card) -> Rows:
    """Time a step of a beam, with one source and with many."""
    for precision in PRECISIONS:
        for batch in card.sizes.batches:
            taken = seconds(_search(card, precision, batch), max(1, card.sizes.rounds // 3))
            step, tokens = taken / card.sizes.new_tokens, batch * card.sizes.new_tokens / taken
            case = f"{BEAMS} beams, {batch} source{'s' * (batch > 1)}, {precision}"
            yield Row(case, f"{1000 * step:.2f} ms a step, {tokens:,.0f} tokens/s")


def _search(card: Card, precision: str, batch: int) -> Callable[[], object]:
    """Return a search in which no hypothesis ends before the last step."""
    sizes = card.sizes
    sources = [source for source, _ in random_pairs(sizes.lengths()[:batch], sizes.vocabulary)]
    rules = SearchSettings(beams=BEAMS, min_length=sizes.new_tokens, batch=batch, precision=precision)
    model, vocabulary = card.model().eval(), Ids(sizes.vocabulary)

    def search() -> object:
        with computing(WAYS):
            return generate(model, vocabulary, sources, rules, sizes.new_tokens, lambda _: None)

    return partial(search)
