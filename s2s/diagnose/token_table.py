"""Every token that was judged as a row of a Parquet file, so that all can be tested again elsewhere."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s2s.diagnose.measurements import Measurements
from s2s.diagnose.traces import Marks, Trace
from s2s.errors import optional_module
from s2s.files.atomic import open_output

Columns = dict[str, Any]


def write_tokens(path: Path, runs: Sequence[Measurements]) -> None:
    """Write the tokens of all runs.

    Columns: ``run``; ``example`` from 0; ``arm`` (forced: gold after gold, free: own after own, damaged: gold after
    a damaged prefix); ``corruption`` and ``prefix`` of damaged ones; ``place`` in the text from 0; ``token``;
    ``log_prob`` in nats; ``entropy``, ``best`` (the likeliest token) and its ``best_log_prob``, not of damaged ones;
    ``correct`` (forced: the likeliest is gold; free: aligned with an equal token of gold).
    Raises ``UserError`` where pyarrow is not installed.
    """
    pyarrow, parquet = (
        optional_module(name, "diagnose", "the table of tokens") for name in ("pyarrow", "pyarrow.parquet")
    )
    # Each arm is its own table, since columns differ: pyarrow fills the missing ones with null.
    tables = [pyarrow.table(columns) for run in runs for columns in _arms(run)]
    with open_output(path) as file:
        parquet.write_table(pyarrow.concat_tables(tables, promote_options="default"), file)


def _arms(run: Measurements) -> Iterator[Columns]:
    yield _traced(run.name, "forced", run.forced, [gold.best == gold.tokens for gold in run.forced])
    yield _traced(run.name, "free", run.free, run.correct)
    for row, name in enumerate(run.recovery.corruptions):
        for column, length in enumerate(run.recovery.prefixes):
            if not np.isnan(run.recovery.deltas[row, column]).all():
                damaged = _damaged(run, row, column)
                count = len(damaged["token"])
                which = {"corruption": [name] * count, "prefix": [length] * count}
                yield {"run": [run.name] * count, "arm": ["damaged"] * count, **which, **damaged}


def _traced(run: str, arm: str, traces: Sequence[Trace], correct: Sequence[Marks]) -> Columns:
    lengths = [len(row.tokens) for row in traces]
    return {
        "run": [run] * sum(lengths),
        "arm": [arm] * sum(lengths),
        "example": np.repeat(np.arange(len(traces)), lengths),
        "place": np.concatenate([np.arange(length) for length in lengths]),
        "token": np.concatenate([row.tokens for row in traces]),
        "log_prob": np.concatenate([row.log_probs for row in traces]).astype(np.float64),
        "entropy": np.concatenate([row.entropies for row in traces]).astype(np.float64),
        "best": np.concatenate([row.best for row in traces]),
        "best_log_prob": np.concatenate([row.best_log_probs for row in traces]).astype(np.float64),
        "correct": np.concatenate(correct),
    }


def _damaged(run: Measurements, row: int, column: int) -> Columns:
    deltas = run.recovery.deltas[row, column]
    examples, distances = np.nonzero(~np.isnan(deltas))
    positions = run.recovery.prefixes[column] + distances
    gold = [
        (run.forced[example].tokens[position], run.forced[example].log_probs[position])
        for example, position in zip(examples, positions, strict=True)
    ]
    tokens, log_probs = (np.array(side) for side in zip(*gold, strict=True))
    return {
        "example": examples,
        "place": positions,
        "token": tokens,
        # The pass keeps differences of costs: the log-probability after a damaged prefix is gold's own minus the delta.
        "log_prob": log_probs.astype(np.float64) - deltas[examples, distances],
    }
