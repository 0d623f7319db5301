"""Every token that was judged as a row of a Parquet file, so that all can be tested again elsewhere."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s2s.diagnose.alignment import correct
from s2s.diagnose.measures import Measures
from s2s.diagnose.traces import Trace
from s2s.errors import optional_module
from s2s.files.atomic import open_output

Columns = dict[str, Any]


def write_tokens(path: Path, measured: Sequence[Measures]) -> None:
    """Write the tokens of all runs.

    Columns: ``run``; ``example`` from 0; ``arm`` (forced: gold behind gold, free: own behind own, damaged: gold behind
    a damaged prefix); ``corruption`` and ``prefix`` of damaged ones; ``place`` in the text from 0; ``token``;
    ``log_prob`` in nats; ``entropy``, ``best`` (the likeliest token) and its ``best_log_prob``, not of damaged ones;
    ``correct`` (forced: the likeliest is gold; free: aligned with its like in gold).
    Raises ``UserError`` where pyarrow is not installed.
    """
    pyarrow, parquet = (
        optional_module(name, "diagnose", "the table of tokens") for name in ("pyarrow", "pyarrow.parquet")
    )
    tables = [pyarrow.table(columns) for one in measured for columns in _arms(one)]
    with open_output(path) as file:
        parquet.write_table(pyarrow.concat_tables(tables, promote_options="default"), file)


def _arms(one: Measures) -> Iterator[Columns]:
    yield _traced(one.name, "forced", one.forced, [trace.best == trace.tokens for trace in one.forced])
    rights = [
        correct(own.tokens.tolist(), gold.tokens.tolist()) for own, gold in zip(one.free, one.forced, strict=True)
    ]
    yield _traced(one.name, "free", one.free, rights)
    for row, name in enumerate(one.recovery.corruptions):
        for column, length in enumerate(one.recovery.prefixes):
            if (found := _damaged(one, row, column)) is not None:
                count = len(found["token"])
                which = {"corruption": [name] * count, "prefix": [length] * count}
                yield {**_columns(one.name, "damaged", count), **which, **found}


def _columns(run: str, arm: str, tokens: int) -> Columns:
    return {"run": [run] * tokens, "arm": [arm] * tokens}


def _traced(run: str, arm: str, traces: Sequence[Trace], rights: Sequence[Any]) -> Columns:
    lengths = [len(one.tokens) for one in traces]
    return {
        **_columns(run, arm, sum(lengths)),
        "example": np.repeat(np.arange(len(traces)), lengths),
        "place": np.concatenate([np.arange(length) for length in lengths]),
        "token": np.concatenate([one.tokens for one in traces]),
        "log_prob": np.concatenate([one.log_probs for one in traces]).astype(np.float64),
        "entropy": np.concatenate([one.entropies for one in traces]).astype(np.float64),
        "best": np.concatenate([one.best for one in traces]),
        "best_log_prob": np.concatenate([one.best_log_probs for one in traces]).astype(np.float64),
        "correct": np.concatenate([np.asarray(right, dtype=bool) for right in rights]),
    }


def _damaged(one: Measures, row: int, column: int) -> Columns | None:
    deltas, length = one.recovery.deltas[row, column], one.recovery.prefixes[column]
    examples, distances = np.nonzero(~np.isnan(deltas))
    if not len(examples):
        return None
    places = length + distances
    gold = [
        (one.forced[example].tokens[place], one.forced[example].log_probs[place])
        for example, place in zip(examples, places, strict=True)
    ]
    tokens, log_probs = (np.array(side) for side in zip(*gold, strict=True))
    return {
        "example": examples,
        "place": places,
        "token": tokens,
        "log_prob": log_probs.astype(np.float64) - deltas[examples, distances],
    }
