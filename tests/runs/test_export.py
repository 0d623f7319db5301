"""From a checkpoint to a run to a checkpoint: the same numbers in ``transformers`` and back here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY_CHECKPOINT, randomise
from exported import PAIRS, recipe, save_checkpoint
from tiny_tokenizers import learnt, whole
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    BertModel,
    RobertaForMaskedLM,
)

import s2s
from s2s.errors import UserError
from s2s.model import ModelSettings, PrefixTransformer
from s2s.model.pretrained import read
from s2s.objective import Objective, ObjectiveSettings
from s2s.runs.transformers_export import export_transformers

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TEXTS = [*(source for source, _ in PAIRS[:3]), "zebra 去", ""]
# A checkpoint's class, its tokenizer, whether that is trimmed, and the file that the weights lie in.
FAMILIES = [
    pytest.param((BertForMaskedLM, "wordpiece", True, "safetensors"), id="bert with head, trimmed"),
    pytest.param((BertModel, "unigram", True, "safetensors"), id="bert with pieces of XLM-R, trimmed"),
    pytest.param((BertModel, "unigram", False, "bin"), id="bert with pieces of XLM-R, whole"),
    pytest.param((RobertaForMaskedLM, "unigram", False, "bin"), id="roberta with head, whole"),
]


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> s2s.Run:
    kind, tokenizer, trim, file = request.param
    folder = tmp_path_factory.mktemp("export")
    pieces = whole(tokenizer)
    config = {"vocab_size": pieces.size, "pad_token_id": pieces.padding, "max_position_embeddings": 40}
    model = kind(kind.config_class(**(TINY_CHECKPOINT | config))).eval()
    randomise(model, 0)
    place = save_checkpoint(model, tokenizer, folder / "checkpoint")
    if file == "bin":
        torch.save(model.state_dict(), place / "pytorch_model.bin")
        (place / "model.safetensors").unlink()
    return as_if_trained(recipe(place, folder, f"vocabulary.trim={trim}"))


def as_if_trained(settings: s2s.Recipe) -> s2s.Run:
    """The run that training would end with, but for noise in the place of updates."""
    vocabulary, objective = settings.build()
    noise = torch.Generator().manual_seed(1)
    for parameter in objective.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=noise)
    return s2s.Run(Path(settings.run.folder), settings, vocabulary, objective.eval(), "default", 2)


@pytest.fixture(scope="module")
def exported(run: s2s.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "bert"
    run.export_transformers(folder)
    return folder


@torch.no_grad()
def hidden(model: PrefixTransformer, rows: list[list[int]]) -> list[torch.Tensor]:
    return [model.source_hidden(torch.tensor([row]), torch.tensor([len(row)]))[0] for row in rows]


def sources(run: s2s.Run) -> list[list[int]]:
    return [run.vocabulary.source_ids(ids) for ids in run.vocabulary.encode_all(TEXTS)]


@torch.no_grad()
def test_the_encoder_is_the_same_in_transformers(run: s2s.Run, exported: Path) -> None:
    encoded = AutoTokenizer.from_pretrained(exported)(TEXTS, padding=True, return_tensors="pt")
    rows = sources(run)
    assert [
        ids[mask == 1].tolist() for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    ] == rows
    theirs = AutoModel.from_pretrained(exported).eval()(**encoded).last_hidden_state
    for ours, other in zip(hidden(run.model, rows), theirs, strict=True):
        torch.testing.assert_close(ours, other[: len(ours)], **CLOSE)


@torch.no_grad()
def test_the_output_layer_is_the_same_in_transformers_where_bert_has_one(run: s2s.Run, exported: Path) -> None:
    assert isinstance(run.model, PrefixTransformer)
    if not run.model.shape.transform:
        pytest.skip("BERT's masked language model has a transform, this model none")
    row = torch.tensor([sources(run)[0]])
    theirs = AutoModelForMaskedLM.from_pretrained(exported).eval()(row).logits
    ours = run.model.logits(run.model.source_hidden(row, torch.tensor([row.shape[1]])))
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_back_here_all_weights_and_pieces_are_the_same(run: s2s.Run, exported: Path, tmp_path: Path) -> None:
    again = recipe(exported, tmp_path, "vocabulary.trim=false")
    vocabulary, objective = again.build()
    assert vocabulary.encode_all(TEXTS) == run.vocabulary.encode_all(TEXTS)
    assert (vocabulary.padding, vocabulary.begin, vocabulary.end) == (
        run.vocabulary.padding,
        run.vocabulary.begin,
        run.vocabulary.end,
    )
    assert isinstance(run.model, PrefixTransformer)
    offset = run.model.shape.position_offset
    state = run.model.state_dict() | {
        "embedding.positions.weight": run.model.state_dict()["embedding.positions.weight"][offset:]
    }
    assert objective.model.state_dict().keys() == state.keys()
    for name, tensor in objective.model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], **CLOSE)


def test_scores_of_targets_survive_the_round_trip(run: s2s.Run, exported: Path) -> None:
    found = read(ModelSettings(pretrained=str(exported)), None)
    model = PrefixTransformer(found.architecture).eval()
    model.load_state_dict(found.state)
    batch = run.vocabulary.batch(PAIRS[:3])
    with torch.no_grad():
        scores = [
            each.logits(each.decode(batch.target, each.encode(batch.source, batch.source_lengths)))
            for each in (run.model, model)
        ]
    torch.testing.assert_close(*scores, **CLOSE)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"norm": "pre"}, "normalises after each half"),
        ({"norm": "post", "attention": "dense", "source_slots": 8, "target_slots": 8}, "by 'dense'"),
        ({"norm": "post", "attention": "dot,dense", "source_slots": 8, "target_slots": 8}, "by 'dot,dense'"),
    ],
)
def test_what_bert_cannot_hold_is_refused_with_the_reason(
    run: s2s.Run, random_model: Callable[..., PrefixTransformer], shape: dict, reason: str, tmp_path: Path
) -> None:
    other = replace(run, objective=Objective(random_model(**shape), ObjectiveSettings()))
    with pytest.raises(UserError, match=f"^export: .*{reason}"):
        export_transformers(other, tmp_path / "bert")
    assert not list(tmp_path.iterdir())


def test_a_sentencepiece_vocabulary_is_refused_with_the_reason(run: s2s.Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^export: .*sentencepiece.*vocabulary\.kind: pretrained"):
        export_transformers(replace(run, vocabulary=learnt()), tmp_path / "bert")
    assert not list(tmp_path.iterdir())


def test_nothing_that_is_there_is_overwritten(run: s2s.Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="exists already; name a new folder"):
        run.export_transformers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
