"""Train, resume, decode, predict and serve: run by ``test_other_systems`` where Linux's own things are taken away."""

import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path

import tiny_runs

HEADS = (
    *("data.source_field=words", "data.target_field=null", "data.max_source=20", "vocabulary.size=300"),
    *("model={layers: 1, width: 8, heads: 2}", "heads={tags: {name: crf, field: tags, scheme: bio}}"),
    *("run.steps=2", "run.folder=labels", "run.select=loss"),
)


def imported() -> list[str]:
    """Import every module of the package that needs nothing that is not installed."""
    import s2s

    names = [each.name for each in pkgutil.walk_packages(s2s.__path__, "s2s.") if not each.name.endswith("__main__")]
    for name in names:
        importlib.import_module(name)
    return names


def trained() -> list[int]:
    """Train, and resume after the first command has ended."""
    from s2s import train

    keys = [*tiny_runs.TINY, "run.folder=run", "run.save_every=1", "run.evaluate_every=2"]
    assert train.main(["recipe=toy_copy", *keys, "run.steps=2"]) == 0
    assert train.main(["recipe=toy_copy", *keys, "run.steps=4"]) == 0
    return [record["step"] for record in tiny_runs.log(Path("run")) if "dev" not in record]


def decoded() -> list[int]:
    """Decode, also with worker processes reading, into a file that is written piece by piece."""
    from s2s import train
    from s2s.commands import decode, predict

    Path("in.txt").write_text("a b c\nd e f\n", encoding="utf-8")
    assert decode.main(["run=run", "input=in.txt", "output=out.jsonl"]) == 0
    Path("data").mkdir()
    row = json.dumps({"words": ["the", "red", "sea"], "tags": ["O", "O", "B-P"]}) + "\n"
    for split in ("train", "dev"):
        Path("data", f"{split}.jsonl").write_text(row * 9, encoding="utf-8")
    Path("mine.yaml").write_text("{}", encoding="utf-8")
    assert train.main(["recipe=mine.yaml", f"data.path={Path.cwd() / 'data'}", *HEADS]) == 0
    assert predict.main(["run=labels", "input=in.txt", "output=labels.jsonl"]) == 0
    return [len(Path(name).read_text(encoding="utf-8").splitlines()) for name in ("out.jsonl", "labels.jsonl")]


def served() -> int:
    """Ask the server's application."""
    from fastapi.testclient import TestClient

    import s2s
    from s2s.serve.application import application
    from s2s.serve.worker import Worker

    app = application({"run": s2s.load("run")}, Worker(most_waiting=4))
    with TestClient(app, base_url="http://localhost") as client:
        return client.post("/generate", json={"source": "a b c"}).status_code


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    print(json.dumps({"modules": imported(), "steps": trained(), "lines": decoded(), "status": served()}))
