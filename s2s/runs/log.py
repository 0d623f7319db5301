"""A run's log, ``log.jsonl``: a JSON object for each step, and one with ``dev`` for each evaluation."""

from pathlib import Path
from typing import Any

from s2s.files.atomic import write_atomically
from s2s.files.foreign import parse_json

LOG = "log.jsonl"


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's log, none without one; damaged lines are left out, as the log is a side output."""
    path = folder / LOG
    if not path.is_file():
        return []
    records = map(_record, path.read_text(encoding="utf-8", errors="replace").splitlines())
    return [record for record in records if record is not None]


def cut_log(folder: Path, step: int) -> None:
    """Drop the log's lines of steps after ``step``, and a half-written last line."""
    path = folder / LOG
    if not path.exists():
        return
    # A damaged line, of whatever bytes, is dropped as one of a later step is: the log is a side output.
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _step(line) <= step]
    write_atomically(path, "".join(line + "\n" for line in kept))


def _step(line: str) -> float:
    record = _record(line)
    return float("inf") if record is None else float(record["step"])


def _record(line: str) -> dict[str, Any] | None:
    """Return the record of a line of the log, None for a damaged one: every record has the number of its step."""
    try:
        record: dict[str, Any] = parse_json(line)
        float(record["step"])
    except (ValueError, KeyError, TypeError):
        return None
    return record
