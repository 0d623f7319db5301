"""Checkpoints with their own tokenizers: training reads, and decoding writes, what the library itself would."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import FAMILIES, NO_SIZES, randomise
from foreign_tokenizers import TEXTS, bart, gpt2, qwen, t5
from library_search import before_end
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

import s2s
from s2s.model.backbones.configuration import kind_of, parsed
from s2s.recipe.build import load_data
from s2s.recipe.recipe import Recipe
from s2s.train import main as train

pytestmark = pytest.mark.slow
TITLE = "{source}\nTitle: {target}"
KINDS: dict[str, tuple[Any, str | None]] = {
    "t5": (t5, "summarize: {source}"),
    "bart": (bart, None),
    "gpt2": (gpt2, TITLE),
    "qwen3": (qwen, "chat"),
}
LONGEST = 40
ROWS = [(text.strip(), " ".join(text.split()[:3])) for text in TEXTS[:4]] * 6


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a hub has it, with more rows of embeddings than its tokenizer has pieces."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = KINDS[request.param][0]()
    end, start = tokenizer.eos_token_id, tokenizer.eos_token_id if request.param == "bart" else tokenizer.pad_token_id
    special = {"eos_token_id": end, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    values = FAMILIES[request.param] | special | {"vocab_size": len(tokenizer) + 5, "decoder_start_token_id": start}
    config = parsed(values)
    auto = AutoModelForSeq2SeqLM if kind_of(config) == "encoder_decoder" else AutoModelForCausalLM
    model = auto.from_config(config)
    randomise(model)
    model.generation_config = GenerationConfig(**{name: id for name, id in special.items() if id is not None})
    model.generation_config.decoder_start_token_id = start
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    lines = [json.dumps({"source": source, "target": target}) for source, target in ROWS]
    (folder / "texts").mkdir()
    (folder / "texts" / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def recipe(checkpoint: Path, *overrides: str) -> list[str]:
    template = KINDS[json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["model_type"]][1]
    model = {"pretrained": str(checkpoint), "dropout": 0.0, **dict.fromkeys(NO_SIZES)}
    data = {"source": None, "path": str(checkpoint / "texts"), "max_source": LONGEST, "template": template}
    run = ["run.steps=2", "run.evaluate_examples=1", "run.precision=fp32", "run.tokens=256"]
    return [
        f"model={json.dumps(model)}",
        f"data={json.dumps(data)}",
        "vocabulary.kind=pretrained",
        *run,
        *overrides,
    ]


def theirs(checkpoint: Path) -> tuple[Any, Any, str | None]:
    kind = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    auto = AutoModelForSeq2SeqLM if kind.get("is_encoder_decoder") else AutoModelForCausalLM
    return (
        auto.from_pretrained(checkpoint).eval(),
        AutoTokenizer.from_pretrained(checkpoint),
        KINDS[kind["model_type"]][1],
    )


def prompt(tokenizer: Any, template: str | None, source: str) -> torch.Tensor:
    """The ids of a source as a user of the library would make them."""
    if template == "chat":
        asked = [{"role": "user", "content": source}]
        return torch.tensor([tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]])
    text = (template or "{source}").replace("{source}", source).replace(" {target}", "")
    return torch.tensor([tokenizer(text).input_ids])


def test_the_loss_is_that_of_the_librarys_own_labels(checkpoint: Path) -> None:
    vocabulary, objective = Recipe.load("toy_copy", recipe(checkpoint)).build()
    objective.eval()
    model, tokenizer, template = theirs(checkpoint)
    for source, target in ROWS[:4]:
        loss = objective(vocabulary.batch([(source, target)])).total
        ids = prompt(tokenizer, template, source)
        if model.config.is_encoder_decoder:
            labels = torch.tensor([tokenizer(text_target=target).input_ids])
            scores = model(input_ids=ids, labels=labels).logits
            # BART's labels begin with <s>, which is no part of a target.
            labels, scores = (part[:, len(vocabulary.prefix) :] for part in (labels, scores))
            wanted = torch.nn.functional.cross_entropy(scores[0], labels[0])
        else:
            blank = "" if template == "chat" else " "
            written = torch.tensor([[*tokenizer(blank + target).input_ids, tokenizer.eos_token_id]])
            whole = torch.cat([ids, written], dim=1)
            labels = whole.masked_fill(torch.arange(whole.shape[1]) < ids.shape[1], -100)
            wanted = model(input_ids=whole, labels=labels).loss
        assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_a_run_writes_what_generate_writes(checkpoint: Path, tmp_path: Path) -> None:
    run = s2s.fit(Recipe.load("toy_copy", recipe(checkpoint, f"run.folder={tmp_path / 'run'}")))
    model, tokenizer, template = theirs(checkpoint)
    model.load_state_dict(run.model.inner.state_dict())  # type: ignore[union-attr]
    again = s2s.load(tmp_path / "run")
    assert run.vocabulary.size < run.model.shape.vocabulary
    # A longer source is cut, and the library's own prompt is not.
    texts = [source for source, _ in ROWS[:4] if prompt(tokenizer, template, source).shape[1] <= LONGEST]
    assert len(texts) >= 3
    found = again.generate(texts, beams=1, max_length=6)
    forced = {"forced_bos_token_id": tokenizer.bos_token_id} if run.vocabulary.prefix else {}
    never = [*run.vocabulary.never_written, *range(run.vocabulary.size, run.model.shape.vocabulary)]
    for text, rows in zip(texts, found, strict=True):
        ids = prompt(tokenizer, template, text)
        length = 6 + len(run.vocabulary.prefix)
        row = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=length,
            suppress_tokens=[id for id in never if id not in (run.vocabulary.end, *forced.values())],
            **forced,
        )[0]
        new = row[1 + len(run.vocabulary.prefix) if model.config.is_encoder_decoder else ids.shape[1] :].tolist()
        wanted = before_end(new, run.vocabulary.end)
        assert rows[0].tokens == wanted
    scores = again.score(texts, [rows[0].tokens for rows in found])
    for rows, score in zip(found, scores, strict=True):
        whole = score if len(rows[0].tokens) < 6 else score[:-1]
        assert rows[0].score == pytest.approx(float(whole.sum()), abs=1e-4)


def test_an_exported_run_frames_a_text_and_writes_as_the_run_does(checkpoint: Path, tmp_path: Path) -> None:
    run = s2s.fit(Recipe.load("toy_copy", recipe(checkpoint, f"run.folder={tmp_path / 'run'}")))
    run.export_transformers(tmp_path / "exported")
    kind = type(theirs(checkpoint)[0])
    model = kind.from_pretrained(tmp_path / "exported").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    text, vocabulary = "a source", run.vocabulary
    ids = torch.tensor([tokenizer(text).input_ids])
    (source,), _ = run.source_ids([text])
    causal = not model.config.is_encoder_decoder
    assert ids[0].tolist() == [*source, *[vocabulary.start] * causal]
    row = model.generate(ids, attention_mask=torch.ones_like(ids))[0].tolist()
    new = row[ids.shape[1] if causal else 1 + len(vocabulary.prefix) :]
    wanted = before_end(new, vocabulary.end)
    found = run.generate([text], max_length=run.max_length(run.recipe.search))[0][0].tokens
    if found != wanted:  # two tokens of nearly one probability may change places by rounding
        ours, others = (score[: len(found)].sum() for score in run.score([text] * 2, [found, wanted]))
        assert float(ours) == pytest.approx(float(others), abs=1e-3)


def test_the_dry_run_shows_each_token_with_its_role_and_label(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(["recipe=toy_copy", *recipe(checkpoint, f"run.folder={tmp_path / 'none'}"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    rows = [row for row in rows if len(row) == 7]
    made = Recipe.load("toy_copy", recipe(checkpoint))
    vocabulary, example = made.build()[0], load_data(made).train[0]
    source, target = example.source, example.target
    batch = vocabulary.batch([(source, target)])
    read = [*batch.source[0].tolist(), *vocabulary.prefix, *batch.target[0].tolist()]
    first = rows[: len(read)]
    assert [int(row[3]) for row in first] == read
    roles = ["template"] * len(vocabulary.opening) + ["source"] * len(vocabulary.encode_sources([source])[0])
    roles += ["template"] * len(vocabulary.closing) + ["decoder"] * len(vocabulary.prefix) + ["begin"]
    assert [row[1] for row in first] == [*roles, *["target"] * (len(read) - len(roles))]
    assert [int(row[6]) for row in first if row[6]] == batch.labels[0].tolist()
