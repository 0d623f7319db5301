"""The dry run shows what would be trained, and trains and writes nothing."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import s2s
from s2s.train import main

KEYS = ["recipe=toy_copy", "data.size=400", "run.tokens=512", "run.steps=90"]
FEED = "mitigations=[{name: random_replacement, rate: 1.0, gate: 1.0, pool: vocabulary}]"


def rehearsed(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    state = torch.get_rng_state()
    assert main([*KEYS, f"run.folder={folder / 'run'}", *arguments, "--dry-run"]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert list(folder.iterdir()) == []
    return capsys.readouterr().out


def test_a_dry_run_shows_the_run_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = rehearsed(tmp_path, capsys, FEED)
    for part in ("examples: train 200", "model.blocks", "memory of a process: about", "an epoch has", "90 steps are"):
        assert part in shown
    assert "s: 90 steps take about" in shown
    assert float(re.search(r"activations of a micro-batch (\d+)", shown)[1]) > 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    rows = [row for row in rows if len(row) == 7]
    sources, targets = ([row for row in rows if row[1] == segment] for segment in "01")
    assert sources[0][2] == "<s>"
    assert targets[0][2] == "</s>"
    ends = [index for index, row in enumerate(targets) if row[5] == "</s>"]
    first = targets[: ends[0] + 1]
    assert [row[2] for row in first[1:]] == [row[5] for row in first[:-1]]  # what is read is what was to be written
    assert [int(row[0]) for row in first] == list(range(int(first[0][0]), int(first[0][0]) + len(first)))
    assert all(row[4] for row in first[1:])  # the feed has replaced every token but the first
    assert not first[0][4]


def test_a_dry_run_of_a_mistake_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*KEYS, "data={source: null, path: /nowhere/at/all}", "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("error: data.path: /nowhere/at/all is missing")
    assert list(tmp_path.iterdir()) == []


def word_pieces(folder: Path) -> Path:
    """A tokenizer as BERT has it, which knows neither emojis nor upper case, saved in a folder."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(mark + letter for mark in ("", "##") for letter in "adegrtyz")]
    tokenizer = Tokenizer(models.WordPiece({name: id for id, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_losses_of_encoding_are_told_by_dry_run_training_and_decoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data, sources = tmp_path / "train.jsonl", tmp_path / "sources.txt"
    pairs = [("red tea", "great 😀 day"), ("ж tea", "a  Tray"), *((f"a tray {'z' * at}", "a day") for at in range(40))]
    rows = [json.dumps({"source": source, "target": target}, ensure_ascii=False) + "\n" for source, target in pairs]
    data.write_text("".join(rows), encoding="utf-8")
    keys = [f"data={{source: null, path: {data}}}", "model={layers: 1, width: 16, heads: 2}", "run.steps=1"]
    keys += [f"vocabulary={{kind: pretrained, name: {word_pieces(tmp_path / 'tokenizer')}}}", "run.tokens=256"]
    keys += ["recipe=toy_copy", f"run.folder={tmp_path / 'run'}", "run.evaluate_examples=1", "run.evaluate_every=1"]
    lines = [
        "train: 1 piece of 1 of 40 sources unknown to the vocabulary: 'ж tea' -> '[UNK] tea'",
        "train: 1 piece of 1 of 40 targets unknown to the vocabulary: 'great 😀 day' -> 'great [UNK] day'",
        "targets: 1 of 40 tested come back with lower case, such as 'a  Tray' -> 'a tray'",
        "targets: 1 of 40 tested come back with characters lost or replaced, such as 'great 😀 day' -> 'great day'",
    ]
    assert main([*keys, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in lines if line not in shown] == []
    assert main(keys) == 0
    shown = capsys.readouterr().out
    assert [line for line in lines if line not in shown] == []
    run = s2s.load(tmp_path / "run")
    told = "1 piece of 1 of 2 sources unknown to the vocabulary: 'a 😀' -> 'a [UNK]'"
    run.generate(["a 😀", "a day"], max_length=3)
    assert told in caplog.text
    caplog.clear()
    run.score(["a day", "a day"], ["a 😀", "a day"])
    assert told.replace("sources", "targets") in caplog.text
    sources.write_text("a 😀\na day\n", encoding="utf-8")
    script = Path(__file__).parents[2] / "scripts" / "decode.py"
    given = [f"run={tmp_path / 'run'}", f"input={sources}", f"output={tmp_path / 'out.txt'}"]
    done = subprocess.run([sys.executable, script, *given], capture_output=True, encoding="utf-8", check=True)
    assert told in done.stderr
    blank = "".join([*rows, json.dumps({"source": "a", "target": "\u0301"}) + "\n"])
    data.write_text(blank, encoding="utf-8")
    assert main([*keys, "--dry-run"]) == 2
    assert "1 targets are blank to this vocabulary" in capsys.readouterr().err
