"""Loading a data set of any origin: three splits, a fingerprint and a report."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy

from s2s.config.outside_names import OWN_WORDS, refuse_foreign
from s2s.data import docstrings, user_files
from s2s.data.decoded_targets import with_decoded
from s2s.data.docstrings import Lists
from s2s.data.example_store import Examples, pack
from s2s.data.rows import Example
from s2s.data.settings import DataSettings, check_origin
from s2s.data.splits import SPLITS
from s2s.data.synthetic import Transduction
from s2s.data.user_files import Splits
from s2s.errors import UserError, nearest
from s2s.files.paths import cache_folder
from s2s.randomness import seed_of

TRAINED = ("train", "dev")
"""The splits that training reads."""
COPY_ALPHABET, COPY_LENGTHS, COPY_HELD_OUT = "abcdefghij", (3, 10), 100


class Dataset(NamedTuple):
    """Examples in three splits.

    ``fingerprint`` is 12 hexadecimal digits that depend on train and dev; training does not read the test split.
    ``report`` has lines for people: the size of each split, lines skipped, packages missing. ``gold`` is train with its
    own targets where ``data.targets`` has replaced them: vocabularies are made of it, so that they are the teacher's.
    """

    train: Examples
    dev: Examples
    test: Examples
    fingerprint: str
    report: list[str]
    gold: Examples | None = None


def load(data: DataSettings, labels: Sequence[str] = (), splits: Sequence[str] = SPLITS) -> Dataset:
    """Return the data set that ``data`` describes, the same at every call; raises `UserError` if there is none.

    Of the user's files only the ``splits`` are read, so a fault in another one does not matter.
    ``labels`` are fields of the user's files that examples get besides source and target.
    """
    refuse_foreign(data, "data", OWN_WORDS)
    refuse_foreign(data.dataset, "data.dataset", OWN_WORDS)
    check_origin(data)
    if data.source is not None and data.source not in BUILT_IN:
        raise UserError(f"data.source: '{data.source}' is unknown{nearest(data.source, BUILT_IN)}")
    if data.source is not None and (labels or data.target_field is None):
        raise UserError(f"data.source: '{data.source}' has sources and targets, no other fields; labels need data.path")
    loaded, report = user_files.load(data, labels, splits) if data.source is None else _built_in(data.source, data)
    loaded, drawn = _drawn(loaded, data)
    gold = None
    if data.targets is not None:
        gold = loaded["train"]
        loaded["train"], lines = with_decoded(gold, data.targets, data.on_error, cache_folder(data.cache))
        report += lines
    read = loaded if data.source is not None else {split: loaded[split] for split in splits}
    counts = ", ".join(f"{split} {len(examples)}" for split, examples in read.items())
    report = [f"examples: {counts}", *drawn, *report, *_overlap(read)]
    digits = fingerprint({split: loaded[split] for split in TRAINED})
    return Dataset(loaded["train"], loaded["dev"], loaded["test"], digits, report, gold)


def is_same(recorded: str, dataset: Dataset, data: DataSettings, labels: Sequence[str] = ()) -> bool:
    """Return whether a run, by the fingerprint it recorded, was trained on the data set.

    Earlier versions took the fingerprint of all three splits, so the test split is read too if the first one differs.
    """
    if recorded == dataset.fingerprint:
        return True
    try:
        whole = load(data, labels)
    except UserError:  # an unreadable test split is no reason to stop: nothing else needs it
        return False
    return recorded == fingerprint({"train": whole.train, "dev": whole.dev, "test": whole.test})


def _drawn(splits: Splits, data: DataSettings) -> tuple[Splits, list[str]]:
    """Return the splits with what ``data.draw`` takes of train, in the order of train, and a line on it."""
    draw, train = data.draw, splits["train"]
    if draw.train is None and draw.test is None:
        return splits, []
    kept, tested = len(train) - (draw.test or 0) if draw.train is None else draw.train, draw.test or 0
    if kept < 1 or kept + tested > len(train):
        raise UserError(f"data.draw: {kept} for train and {tested} for test, but train has {len(train)} examples")
    # RandomState's numbers are the same in all versions of numpy, as a data set must be.
    order = numpy.random.RandomState(seed_of(draw.seed, "data.draw") % 2**32).permutation(len(train))
    # From both ends, so that another size of the one does not change the other.
    parts = {"train": train.take(numpy.sort(order[:kept]))}
    if tested:
        parts["test"] = train.take(numpy.sort(order[-tested:]))
    how = f"{kept} for train" + f" and {tested} for test" * bool(tested)
    return {**splits, **parts}, [f"train: {how} drawn from {len(train)} with seed {draw.seed}"]


def _built_in(name: str, data: DataSettings) -> tuple[Splits, list[str]]:
    lists, report = BUILT_IN[name](data)
    return {split: Examples.of(examples) for split, examples in lists.items()}, report


def fingerprint(splits: Mapping[str, Sequence[Example]]) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of all examples, in order, with the names of their splits."""
    digest = hashlib.sha256()
    for split, examples in splits.items():
        for packed in examples.packed() if isinstance(examples, Examples) else map(pack, examples):
            # The bytes of json.dumps([split, *fields]): runs of all versions have recorded fingerprints of these.
            digest.update(b'["%b", %b\n' % (split.encode(), packed[1:]))
    return digest.hexdigest()[:12]


def _overlap(splits: Splits) -> list[str]:
    """Return a line for each held-out split that shares sources with train, as its scores would flatter the model."""
    seen = splits["train"].hashes()
    shared = {split: int(numpy.isin(splits[split].hashes(), seen).sum()) for split in splits if split != "train"}
    return [f"{split}: {count} sources also occur in train" for split, count in shared.items() if count]


def _copy_task(data: DataSettings) -> tuple[Lists, list[str]]:
    """Make ``data.size`` distinct examples of 3 to 10 letters whose target is the source; 100 each for dev and test."""
    generator = random.Random(0)
    # A dict, as a set that keeps its order: equal texts would be in train and in a held-out split.
    texts: dict[str, None] = {}
    while len(texts) < data.size:
        texts[" ".join(generator.choices(COPY_ALPHABET, k=generator.randint(*COPY_LENGTHS)))] = None
    examples = [Example(text, text) for text in texts]
    dev, test = examples[:COPY_HELD_OUT], examples[COPY_HELD_OUT : 2 * COPY_HELD_OUT]
    return {"train": examples[2 * COPY_HELD_OUT :], "dev": dev, "test": test}, []


def _synthetic_task(data: DataSettings) -> tuple[Lists, list[str]]:
    """Make ``data.size`` examples of the chain ``data.task``; a tenth each for dev and test."""
    examples = [Example(*pair) for pair in Transduction(**vars(data.task)).pairs(data.size)]
    part = data.size // 10
    return {"train": examples[2 * part :], "dev": examples[:part], "test": examples[part : 2 * part]}, []


BUILT_IN: dict[str, Callable[[DataSettings], tuple[Lists, list[str]]]] = {
    "docstrings": docstrings.load,
    "copy": _copy_task,
    "synthetic": _synthetic_task,
}


def texts(dataset: Dataset, most: int | None) -> Iterator[str]:
    """Yield sources and gold targets of at most ``most`` examples of the train split, evenly spaced."""
    for example in spaced(dataset.train if dataset.gold is None else dataset.gold, most):
        yield example.source
        if example.target:
            yield example.target


def spaced(examples: Sequence[Example], most: int | None) -> Iterator[Example]:
    """Return at most ``most`` of the examples, evenly spaced."""
    count = min(len(examples), most or len(examples))
    return (examples[index * len(examples) // count] for index in range(count))
