"""Time of exact word mover's distance against a linear programme for each pair and a loop over POT.

One thread: python scripts/benchmark_transport.py [--pairs 1000] [--tokens 30] [--width 300] [--json FILE]
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import _checkout  # noqa: F401
import numpy as np
import ot
import torch
from benchmarks.options import output_file
from benchmarks.timing import interleaved, processor, write
from numpy.typing import NDArray
from rich.table import Table
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, kron
from scipy.spatial.distance import cdist

from s2s.console.terminal import plain_console
from s2s.metrics import word_movers_distance

Vectors = NDArray[np.float64]
Distance = Callable[[Vectors, Vectors], float]
ROUNDS = 10
CPU = torch.device("cpu")


def constraints(tokens: int) -> csr_array:
    """Return the sums of rows and of columns of a plan [n, n], the last one left out, since the others imply it."""
    ones = np.ones((1, tokens))
    rows, columns = kron(eye_array(tokens), ones), kron(ones, eye_array(tokens))
    return csr_array(np.concatenate([rows.toarray(), columns.toarray()[:-1]]))


def by_linear_programme(sums: csr_array, x: Vectors, y: Vectors) -> float:
    """Return the distance by HiGHS; the constraints are those of all pairs of this size."""
    shares = np.full(sums.shape[0], 1 / len(x))
    solution = linprog(cdist(x, y).ravel(), A_eq=sums, b_eq=shares, bounds=(0, None), method="highs")
    return float(solution.fun)


def by_pot(x: Vectors, y: Vectors) -> float:
    """Return the distance by POT's own functions."""
    return float(ot.emd2(ot.unif(len(x)), ot.unif(len(y)), ot.dist(x, y, metric="euclidean")))


def measure(pairs: int, tokens: int, width: int) -> list[dict[str, Any]]:
    """Return a row for each system, over rounds of a tenth of the pairs; all must find the same distances."""
    draws = np.random.default_rng(0)
    size = max(1, pairs // ROUNDS)
    texts = draws.normal(size=(ROUNDS, size, 2, tokens, width))
    systems: dict[str, Distance] = {
        "scipy linprog (HiGHS)": partial(by_linear_programme, constraints(tokens)),
        "loop over POT": by_pot,
        "s2s": word_movers_distance,
    }
    distances = {name: np.zeros((ROUNDS, size)) for name in systems}

    def work(name: str, number: int) -> None:
        distances[name][number % ROUNDS] = [systems[name](x, y) for x, y in texts[number % ROUNDS]]

    works = {name: partial(work, name) for name in systems}
    times = interleaved(works, ROUNDS, 1, CPU)
    first = next(iter(systems))
    return [
        {
            "system": name,
            "pairs": ROUNDS * size,
            "tokens": tokens,
            "width": width,
            "seconds": sum(time.wall for time in taken),
            "cpu_seconds": sum(time.cpu for time in taken),
            "cpu_ratio": float(
                np.median([time.cpu / base.cpu for time, base in zip(taken, times[first], strict=True)])
            ),
            "largest_difference": float(np.abs(distances[name] - distances[first]).max()),
            "threads": torch.get_num_threads(),
            "precision": "fp64",
            "versions": {package: version(package) for package in ("scipy", "POT", "numpy")},
            "processor": processor(CPU),
        }
        for name, taken in times.items()
    ]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table("system", title=f"{rows[0]['pairs']} pairs of {rows[0]['tokens']} x {rows[0]['tokens']} tokens")
    for head in ("CPU s", "CPU ratio, median of rounds", "largest difference"):
        table.add_column(head, justify="right")
    for row in rows:
        numbers = f"{row['cpu_seconds']:.2f}", f"{row['cpu_ratio']:.3f}", f"{row['largest_difference']:.1e}"
        table.add_row(row["system"], *numbers)
    plain_console(width=100).print(table)


def main(arguments: Sequence[str]) -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--width", type=int, default=300)
    parser.add_argument("--json", type=output_file)
    options = parser.parse_args(arguments)
    if min(options.pairs, options.tokens, options.width) < 1:
        parser.error("--pairs, --tokens, --width: at least 1")
    torch.set_num_threads(1)
    rows = measure(options.pairs, options.tokens, options.width)
    show(rows)
    if options.json:
        write(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
