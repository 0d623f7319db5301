"""Runs of models of ``transformers`` as its own checkpoints: there they continue a text as the run does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import PAIRS, recipe
from foreign_models import FAMILIES, keys
from foreign_runs import run_of
from library_search import before_end
from tiny_tokenizers import whole
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

import s2s
from s2s.commands.evaluate import main as evaluate
from s2s.commands.export import main as export
from s2s.errors import UserError
from s2s.model.backbones.configuration import ForeignArchitecture
from s2s.runs.generation_settings import generation_config
from s2s.runs.transformers_export import export_transformers
from s2s.search.methods import SEARCHES
from s2s.search.methods.base import SearchMethod

pytestmark = pytest.mark.slow
TEXTS = [source for source, _ in PAIRS[:3]]
MODELS = {"encoder_decoder": AutoModelForSeq2SeqLM, "causal_lm": AutoModelForCausalLM}


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> s2s.Run:
    more = 3 * (request.param in ("t5", "qwen3"))
    return run_of(request.param, tmp_path_factory.mktemp(request.param), more=more)


@pytest.fixture(scope="module")
def exported(run: s2s.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert export([f"run={run.folder}", f"output={folder}"]) == 0
    return folder


def loaded(run: s2s.Run, folder: Path):
    kind = vars(run.model.shape)["backbone"]
    return MODELS[kind].from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), kind == "causal_lm"


@torch.no_grad()
def test_the_logits_are_the_runs(run: s2s.Run, exported: Path) -> None:
    model, tokenizer, is_causal = loaded(run, exported)
    for source, target in PAIRS[:3]:
        ids = run.vocabulary.encode(target)
        inputs = tokenizer(source, return_tensors="pt").input_ids
        if is_causal:
            scores = model(torch.cat([inputs, torch.tensor([ids])], dim=1)).logits[0, inputs.shape[1] - 1 :]
        else:
            start = model.generation_config.decoder_start_token_id, model.generation_config.forced_bos_token_id
            first = [id for id in start if id is not None]
            decoder = torch.tensor([[*first, *ids]])
            scores = model(inputs, decoder_input_ids=decoder).logits[0, len(first) - 1 :]
        labels = [*ids, run.vocabulary.end]
        steps = scores.log_softmax(dim=-1)[torch.arange(len(labels)), labels]
        torch.testing.assert_close(steps, run.score([source], [target])[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_generate_finds_what_the_run_finds(run: s2s.Run, exported: Path) -> None:
    model, tokenizer, is_causal = loaded(run, exported)
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    assert set(inputs) == {"input_ids", "attention_mask"}
    for settings in ({}, {"beams": 1}, {"beams": 40, "n_best": 3, "max_length": 2}):
        # The library's penalty counts a forced first token.
        penalty = 0.0 if run.vocabulary.prefix else 1.0
        search = replace(run.recipe.search, length_penalty=penalty, **settings)
        config, lost = generation_config(search, run.max_length(search), run.vocabulary, run.model.shape)
        assert not lost
        given = {"generation_config": config} if settings or not penalty else {}
        begun = inputs["input_ids"].shape[1] if is_causal else 1 + len(run.vocabulary.prefix)
        written = model.generate(**inputs, **given)[:, begun:]
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        hypotheses = [row for rows in run.search(TEXTS, search, lambda _: None) for row in rows]
        cut = [before_end(row, run.vocabulary.end) for row in written.tolist()]
        assert cut == [row.tokens for row in hypotheses]
        assert [text.strip() for text in texts] == [row.text for row in hypotheses]


def test_the_folder_holds_the_search_and_a_card(run: s2s.Run, exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    generation = GenerationConfig.from_pretrained(exported)
    longest = 6 + len(run.vocabulary.prefix)
    assert (generation.num_beams, generation.max_new_tokens, generation.length_penalty) == (3, longest, 1.0)
    assert generation.early_stopping == "never"
    never = {*run.vocabulary.never_written, *range(run.vocabulary.size, run.model.shape.vocabulary)}
    assert set(generation.suppress_tokens or []) == never
    assert json.loads((exported / "config.json").read_text(encoding="utf-8"))["use_cache"]
    card = (exported / "README.md").read_text(encoding="utf-8")
    metadata = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    assert metadata["data"] in card
    assert "search.beams: 3" in card
    assert "from_pretrained(" in card
    dev = [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    (scores,) = [record["dev"] for record in dev if record.get("step") == run.step and "dev" in record]
    assert f"| loss | {round(scores['loss'], 3)} |" in card


def test_an_exported_model_is_a_checkpoint_to_start_from(run: s2s.Run, exported: Path, tmp_path: Path) -> None:
    again = recipe(exported, tmp_path, "model.dropout=0")
    _, objective = again.build()
    # Dropout is on, although the library loads it for evaluation.
    assert all(part.training for part in objective.model.modules())
    for ours, theirs in zip(objective.model.state_dict().values(), run.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_code_of_a_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("t5", "llama"):
        run = run_of(family, tmp_path / family)
        run.export_transformers(tmp_path / f"{family}-model")
        card = (tmp_path / f"{family}-model" / "README.md").read_text(encoding="utf-8")
        *lines, last = card.partition("```python\n")[2].partition("```")[0].splitlines()
        monkeypatch.chdir(tmp_path)
        code = "\n".join([*lines, f"result = {last}"]).replace("a source", TEXTS[0])
        names = {}
        exec(code, names)
        assert [text.strip() for text in names["result"]] == [run.search(TEXTS[:1], run.recipe.search, id)[0][0].text]


def test_scores_of_a_file_are_in_the_card_with_their_signature(tmp_path: Path) -> None:
    run = run_of("t5", tmp_path)
    for name in ("texts.txt", "gold.txt"):
        (tmp_path / name).write_text("a b\nc\n", encoding="utf-8")
    files = [f"hypotheses={tmp_path / 'texts.txt'}", f"references={tmp_path / 'gold.txt'}"]
    assert evaluate([*files, f"json={tmp_path / 'scores.json'}"]) == 0
    for form in ("transformers", "s2s"):
        scores = f"scores={tmp_path / 'scores.json'}"
        assert export([f"run={run.folder}", f"output={tmp_path / form}", f"form={form}", scores]) == 0
        card = (tmp_path / form / "README.md").read_text(encoding="utf-8")
        signature = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["signature"]
        assert f"Signature: `{signature}`" in card
        assert "2 texts" in card
        assert "| rouge_l | 100.0 |" in card
    with pytest.raises(UserError, match=r"scores: .*gold\.txt: not the file of s2s evaluate json=FILE"):
        export_transformers(run, tmp_path / "other", tmp_path / "gold.txt")
    assert not (tmp_path / "other").exists()
    average = replace(run, checkpoint="average")
    average.export_transformers(tmp_path / "average")
    assert "Scores of the dev split" not in (tmp_path / "average" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SEARCHES)
def test_settings_without_a_counterpart_are_named(name: str) -> None:
    pieces = whole("bpe")
    shape = ForeignArchitecture("encoder_decoder", pieces.size, {"model_type": "bart"})
    search: SearchMethod = SEARCHES[name]()
    _, lost = generation_config(search, 5, pieces, shape)
    assert lost == ([] if name in ("beam", "sample") else ["search.name"])
    _, lost = generation_config(replace(search, max_length_ratio=2.0, batch=3), 5, pieces, shape)
    assert "search.max_length_ratio" in lost
    assert "search.batch" not in lost


def test_a_prefix_of_targets_is_the_first_token_that_generate_forces(tmp_path: Path) -> None:
    run = run_of("bart", tmp_path)
    start, end = run.vocabulary.start, run.vocabulary.end
    config, _ = generation_config(run.recipe.search, 6, run.vocabulary, run.model.shape)
    assert (config.decoder_start_token_id, config.forced_bos_token_id, config.max_new_tokens) == (end, start, 7)
    run.export_transformers(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "The first token of a target, <s>, counts in `generate`'s length penalty" in card
    shape: Any = run.model.shape
    with pytest.raises(UserError, match="at most two tokens"):
        generation_config(run.recipe.search, 5, run.vocabulary, replace(shape, prefix=[7, 8]))


def test_a_template_is_around_the_text(tmp_path: Path) -> None:
    run = run_of("gpt2", tmp_path, "data.template='{source} - Title: {target}'", "data.max_source=30")
    run.export_transformers(tmp_path / "model")
    _, tokenizer, _ = loaded(run, tmp_path / "model")
    ids = tokenizer("the quick brown fox").input_ids
    assert ids == [*run.vocabulary.source_ids(run.vocabulary.encode_sources(["the quick brown fox"])[0]), ids[-1]]
    assert tokenizer.decode(ids).endswith("fox - Title:")


def test_a_sentencepiece_vocabulary_is_refused(tmp_path: Path) -> None:
    settings = [f"run.folder={tmp_path / 'run'}", "run.steps=1", "run.evaluate_examples=1"]
    run = s2s.fit(s2s.Recipe.load("toy_copy", [*keys("llama"), *settings]))
    with pytest.raises(UserError, match=r"^export: .*sentencepiece.*vocabulary\.kind: pretrained"):
        run.export_transformers(tmp_path / "model")
    assert not (tmp_path / "model").exists()
