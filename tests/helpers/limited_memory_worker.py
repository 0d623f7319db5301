"""Read, encode and batch a set in a process that may take little memory: python limited_memory_worker.py FOLDER MIB.

FOLDER holds ``small.jsonl``, which is read first and without a limit, so that all code is loaded, and the parts of the
set, ``part-*.jsonl``. Prints the number of examples and of target tokens.
"""

import re
import resource
import sys
from itertools import islice
from pathlib import Path

from s2s.batch import count
from s2s.data import DataSettings, load, ragged, tokenised
from s2s.data.batches import data_order
from s2s.data.cache import CacheEntry
from s2s.data.tokenised import TokenisedSplit, tokenise
from s2s.vocabulary import Vocabulary, sentence_pieces


def read(folder: Path, parts: list[Path], vocabulary: Vocabulary) -> TokenisedSplit:
    names = [part.name for part in parts]
    settings = DataSettings(path=str(folder), train_files=names, cache=str(folder / "cache"))
    dataset = load(settings, splits=("train", "dev"))
    entry = CacheEntry(folder / "cache", dataset.fingerprint)
    return tokenise(dataset.train, vocabulary, 24, 8, "train", data_entry=entry)


def main(folder: Path, mebibytes: int) -> None:
    texts = (folder / "small.jsonl").read_text(encoding="utf-8").splitlines()
    vocabulary = sentence_pieces.train(texts, 300)
    read(folder, [folder / "small.jsonl"], vocabulary)
    # Columns and chunks are smaller than the limit, as they are with the limits of real machines.
    ragged.SPILL, tokenised.CHUNK = 1 << 16, 64
    used = re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert used is not None
    limit = int(used[1]) * 1024 + mebibytes * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    split = read(folder, sorted(folder.glob("part-*.jsonl")), vocabulary)
    updates = islice(data_order(split.lengths(), 4096, 0, 0), 20)
    tokens = sum(int(count(split.batch(update.examples, vocabulary)).target_tokens) for update in updates)
    print(len(split.sources), tokens)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
