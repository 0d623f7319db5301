"""Train on millions of lines: how long reading takes, when the first step comes, how much memory is used, exact resume.

Writes ``--lines`` synthetic lines of words (JSON lines, 4 to 20 words of source and 2 to 7 of target) and trains the
same small model three times, each in a process of its own: on ``--small`` of the lines (what the model needs by
itself), on all of them with an empty cache, and on all of them again with ``kill -9`` midway. Rows of ``--json``:

- ``run``: small, first (reads and encodes), again (finds both in the cache), resumed
- ``seconds`` and ``cpu_seconds`` until the first step is done, ``total_seconds`` and ``total_cpu_seconds`` to the end
- ``peak_mib``: most resident memory, mapped files included; ``over_mib``: less that of the small run
- ``exact``: whether the last weights are those of the first run, bit for bit
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _checkout  # noqa: F401
import numpy
from benchmarks.options import output_file
from benchmarks.timing import write

WORDS, CHUNK, LONGEST = 20_000, 50_000, (20, 7)
KEYS = (
    "data.max_source=48", "data.max_target=16", "vocabulary.size=2000", "vocabulary.sample=20000", "model.layers=2",
    "model.width=128", "model.heads=4", "run.tokens=1024", "run.evaluate_examples=8", "run.save_every=25",
    "run.evaluate_every=100000", "optimizer.name=adamw", "run.select=loss",
)  # fmt: skip


def write_lines(path: Path, lines: int) -> None:
    """Synthetic lines whose words are distributed as in text (Zipf), from a fixed seed."""
    random = numpy.random.default_rng(0)
    letters = random.integers(97, 123, (WORDS, 7), dtype=numpy.uint8)
    words = numpy.array([bytes(row[: 3 + index % 5]).decode() for index, row in enumerate(letters)])
    share = 1 / numpy.arange(1, WORDS + 1)
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, lines, CHUNK):
            count = min(CHUNK, lines - start)
            drawn = words[random.choice(WORDS, (count, sum(LONGEST)), p=share / share.sum())].tolist()
            ends = zip(random.integers(4, 21, count).tolist(), random.integers(2, 8, count).tolist(), strict=True)
            for row, (source, target) in zip(drawn, ends, strict=True):
                texts = " ".join(row[:source]), " ".join(row[-target:])
                file.write(json.dumps(dict(zip(("source", "target"), texts, strict=True))) + "\n")


def train(folder: Path, name: str, data: Path, steps: int, kill_at: int | None = None) -> dict[str, Any]:
    """One run of the command in a process of its own, killed once it has logged ``steps`` steps."""
    log = folder / name / "log.jsonl"
    recipe = folder / "recipe.yaml"
    recipe.write_text("{}\n", encoding="utf-8")
    settings = [f"data.path={data}", f"data.cache={folder / 'cache'}", f"run.folder={folder / name}"]
    keys = [f"recipe={recipe}", *settings, *KEYS, f"run.steps={steps}"]
    logged, began = _steps(log), time.monotonic()
    with (folder / f"{name}.out").open("a", encoding="utf-8") as output:
        process = subprocess.Popen([sys.executable, "-m", "s2s.train", *keys], stdout=output, stderr=output)
        row: dict[str, Any] = {"run": name, "steps": steps}
        while _is_running(process.pid):
            if "seconds" not in row and _steps(log) > logged:
                row |= {"seconds": time.monotonic() - began, "cpu_seconds": _cpu_seconds(process.pid)}
            if kill_at is not None and _steps(log) >= kill_at:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.05)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if kill_at is None and process.returncode:
        raise SystemExit(
            f"{name}: exit code {process.returncode}\n" + (folder / f"{name}.out").read_text(encoding="utf-8")[-2000:]
        )
    row |= {"total_seconds": time.monotonic() - began, "total_cpu_seconds": usage.ru_utime + usage.ru_stime}
    return row | {"peak_mib": usage.ru_maxrss / 1024}


def _steps(log: Path) -> int:
    return log.read_bytes().count(b'"norm"') if log.exists() else 0


def _is_running(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _weights(folder: Path) -> str:
    (last,) = (folder / "checkpoints" / "last").resolve().glob("weights.safetensors")
    return hashlib.sha256(last.read_bytes()).hexdigest()


def measure(folder: Path, lines: int, small: int, steps: int) -> list[dict[str, Any]]:
    """All rows."""
    data, few = folder / "all.jsonl", folder / "few.jsonl"
    write_lines(data, lines)
    write_lines(few, small)
    rows = [train(folder, "small", few, steps), train(folder, "first", data, steps)]
    again = train(folder, "resumed", data, steps, kill_at=steps // 2 + 5)
    rows += [again | {"run": "again", "steps": steps // 2 + 5}, train(folder, "resumed", data, steps)]
    exact = _weights(folder / "first") == _weights(folder / "resumed")
    rows[-1]["exact"] = exact
    return [row | {"lines": lines, "over_mib": row["peak_mib"] - rows[0]["peak_mib"]} for row in rows]


def main(texts: Sequence[str]) -> int:
    """Run the command; return 1 if the resumed run is not exact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=2_000_000, help="default 2000000")
    parser.add_argument("--small", type=int, default=2_000, help="default 2000")
    parser.add_argument("--steps", type=int, default=100, help="default 100")
    parser.add_argument("--folder", type=Path, help="where data, cache and runs go for good; default: a temporary one")
    parser.add_argument("--json", type=output_file, help="write the rows there")
    given = parser.parse_args(texts)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="s2s-large-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        rows = measure(folder, given.lines, given.small, given.steps)
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    for row in rows:
        print(
            "  ".join(
                f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
            )
        )
    if given.json is not None:
        write(given.json, rows)
    return 0 if rows[-1]["exact"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
