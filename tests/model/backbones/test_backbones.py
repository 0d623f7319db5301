"""Models of ``transformers`` as backbones: what is computed once, what is refused, and how their weights are kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import FAMILIES, WholeForwards, objective, tiny
from mitigations_worker import rows
from torch.nn import functional

from s2s.batch import Batch, pad
from s2s.errors import UserError
from s2s.losses.passes import Passes
from s2s.mitigations import MITIGATIONS
from s2s.model.architecture import Architecture, ModelSettings
from s2s.model.backbones import start, untrained
from s2s.model.backbones.causal_lm import CausalLM
from s2s.model.backbones.check import check
from s2s.model.backbones.configuration import ForeignArchitecture, kind_of, parsed, plain
from s2s.model.backbones.encoder_decoder import EncoderDecoder
from s2s.recipe.build import build_model
from s2s.recipe.recipe import Recipe
from s2s.vocabulary import Vocabulary

Materials = tuple[Path, Vocabulary, Batch]
SOURCES, LENGTHS = pad([[5, 6, 7, 4, 3], [4], [8, 3, 8]], 0), torch.tensor([5, 1, 3])
TARGETS = pad([[2, 4, 5], [2, 6, 6], [2, 7, 3]], 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", MITIGATIONS)
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_a_batch_passes_through_the_source_once(family: str, name: str, materials: Materials) -> None:
    folder, vocabulary, batch = materials
    row, scoped = rows(folder)[name], "scope" in MITIGATIONS[name].__dataclass_fields__
    module = objective(family, vocabulary, row.replace("}", ", scope: target}") if scoped else row)
    passes, encode = [], module.model._encode
    module.model._encode = lambda *given: passes.append(len(given[0])) or encode(*given)
    module(batch.map(lambda tensor: tensor[:3]), 1)
    # The article's method moves the whole table, with it the source.
    assert passes == [3] * (2 if name == "fgm_article" else 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_the_source_are_those_of_an_unpadded_pass(family: str) -> None:
    model = tiny(family)
    memory, hidden = model.encode_whole(SOURCES, LENGTHS)
    _, wanted = WholeForwards(model).encode_whole(SOURCES, LENGTHS)
    inside = torch.arange(SOURCES.shape[1]) < LENGTHS[:, None]
    torch.testing.assert_close(hidden[inside], wanted[inside], rtol=1e-9, atol=1e-12)
    assert torch.equal(model.source_hidden(SOURCES, LENGTHS), hidden)
    again = model.encode(SOURCES, LENGTHS)
    assert all(
        torch.equal(*pair) for a, b in zip(memory.layers, again.layers, strict=True) for pair in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_a_pass_of_the_whole_target(family: str) -> None:
    model = tiny(family)
    memory, cache = model.encode(SOURCES, LENGTHS), None
    # Two hypotheses of each source: its own target, and that of the next source.
    targets = torch.stack([TARGETS, TARGETS.roll(1, 0)], dim=1)
    whole = model.decode(targets.flatten(1), memory, copies=2).unflatten(1, (2, -1)).flatten(0, 1)
    for column in range(TARGETS.shape[1]):
        hidden, cache = model.step(targets[..., column].flatten(), column, memory, cache)
        torch.testing.assert_close(hidden, whole[:, column], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_the_output_are_its_scores(family: str) -> None:
    model = tiny(family)
    hidden = model.decode(TARGETS, model.encode(SOURCES, LENGTHS))
    torch.testing.assert_close(functional.linear(*model.output(hidden)), model.logits(hidden), rtol=1e-9, atol=1e-12)
    batch = Batch(SOURCES, LENGTHS, TARGETS, TARGETS.roll(-1, 1), torch.zeros(3, dtype=torch.long))
    sums = Passes(model, 0.1, model).losses(batch)
    model.factor = None  # as of a family whose scores are capped
    for ours, theirs in zip(sums, Passes(model, 0.1, model).losses(batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_weights_holds_each_tensor_once(family: str) -> None:
    model = tiny(family)
    state = model.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    other = untrained(model.shape).double().eval()
    other.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert torch.equal(*(m.decode(TARGETS, m.encode(SOURCES, LENGTHS)) for m in (inexact(model), inexact(other))))
    assert json.loads(json.dumps(model.shape.config)) == model.shape.config
    assert ForeignArchitecture(model.shape.backbone, 11, json.loads(json.dumps(model.shape.config))) == model.shape


def inexact(model):
    """The model with the library's own norms again, which ``tiny`` has replaced."""
    for part in model.modules():
        vars(part).pop("forward", None)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_its_check_and_no_wrong_adapter_does(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(family).float()
    check(model)
    if family == "gpt2":
        call = CausalLM._call
        fixed = lambda self, rows, mask, at, cache: call(self, rows, mask, at * 0, cache)  # noqa: E731
        monkeypatch.setattr(CausalLM, "_call", fixed)
    elif family in ("llama", "qwen3"):
        call = CausalLM._call
        moved = lambda self, rows, mask, at, cache: call(self, rows, mask, at.flip(0), cache)  # noqa: E731
        monkeypatch.setattr(CausalLM, "_call", moved)
    else:
        decode = EncoderDecoder._decode
        seen = lambda self, rows, given, mask, cache: decode(self, rows, given, mask * 0 + 1, cache)  # noqa: E731
        monkeypatch.setattr(EncoderDecoder, "_decode", seen)
    with pytest.raises(UserError, match=r"computes otherwise as .* a score is off by [\d.]+, where rounding explains"):
        check(model)


def settings(**config: object) -> ModelSettings:
    return ModelSettings(config=config)


MAMBA = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
OPT = {
    "model_type": "opt",
    "hidden_size": 16,
    "word_embed_proj_dim": 8,
    "num_hidden_layers": 1,
    "ffn_dim": 8,
    "num_attention_heads": 2,
}
FSMT = {"model_type": "fsmt", "d_model": 16, "src_vocab_size": 30, "tgt_vocab_size": 30, "langs": ["a", "b"]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (settings(d_model=16), "model.config: model_type is missing"),
        (settings(model_type="t6"), "model.config.model_type: transformers has no 't6'"),
        (settings(model_type="t5", d_modle=16), "model.config.d_modle: a t5 has no such key; did you mean 'd_model'"),
        (settings(model_type="t5", auto_map={"x": "y.z"}), "model.config.auto_map: it names code"),
        (settings(model_type="vit"), "model.backbone: a vit is no encoder_decoder or causal_lm"),
        (ModelSettings(config={"model_type": "t5"}, backbone="causal_lm"), "model.backbone: a t5 is no causal_lm"),
        (
            ModelSettings(backbone="causal_lm"),
            "model.backbone: 'causal_lm' needs a family's checkpoint, or model.config",
        ),
        (
            ModelSettings(config={"model_type": "t5"}, width=8),
            "model.width: it is of the prefix LM; a t5 has its own keys",
        ),
        (ModelSettings(config={"model_type": "t5"}, attention="random"), "model.attention: it is of the prefix LM"),
        (settings(**MAMBA), "a mamba has layers of linear_attention, which keep a state instead of keys and values"),
        (settings(model_type="rwkv", hidden_size=16, num_hidden_layers=2), "which keep a state instead of keys"),
        (settings(model_type="qwen3_5"), r"a qwen3_5 has several configurations \(text_config, vision_config\)"),
        (
            settings(model_type="llama", hidden_size=1_000_000),
            r"has 129,\d*,\d*,\d*,\d* parameters, 4.* GiB in float32, and this machine has .* GiB",
        ),
        (settings(**OPT), "a opt of width 16 with embeddings of 8"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(given: ModelSettings, message: str) -> None:
    recipe = Recipe.load("toy_copy")
    recipe.model = given
    with pytest.raises(UserError, match=message):
        build_model(recipe, 30, None, {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3})


def test_keys_that_only_blocks_of_the_prefix_lm_have_are_refused() -> None:
    model = tiny("t5")
    with pytest.raises(UserError, match=r"run\.checkpointing: 'selective' is for the prefix LM; a t5 has none, block"):
        model.keep("selective", 1)
    with pytest.raises(UserError, match=r"run\.compile: it compiles the prefix LM's blocks, not a t5's"):
        model.compile_blocks(True)


def test_a_checkpoint_of_any_family_is_its_own_kind(tmp_path: Path) -> None:
    for family in ("bart", "llama"):
        model = tiny(family)
        folder = tmp_path / family
        model.inner.float().save_pretrained(folder)
        read = ModelSettings(pretrained=str(folder), config={"attention_dropout": 0.25}, dropout=0.125)
        assert start.kind(read) == model.shape.backbone
        made, report = start.start(read, 11, {})
        assert made.inner.config.attention_dropout == 0.25
        assert getattr(made.inner.config, "dropout", 0.125) == 0.125
        assert any("has none" in line for line in report) == (family == "llama")
        ours, theirs = made.state_dict(), model.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
        with pytest.raises(UserError, match=r"^model.config.attention_dropout: 'a' is no "):
            start.start(ModelSettings(pretrained=str(folder), config={"attention_dropout": "a"}), 11, {})
        with pytest.raises(UserError, match=r"vocabulary: 12 pieces, but the (bart|llama) has 11 rows"):
            start.start(read, 12, {})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"auto_map": {"AutoConfig": "x.Y"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="the configuration has 'auto_map', code of the checkpoint's own"):
        start.start(ModelSettings(pretrained=str(folder)), 11, {})
    assert kind_of(parsed({"model_type": "t5"})) == "encoder_decoder"
    assert "_name_or_path" not in plain(parsed({"model_type": "gpt2"}))
    assert Architecture(5).backbone == "prefix_lm"


ONE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
SMALL = {"d_model": 16, "d_kv": 8, "d_ff": 8, "num_layers": 2, "num_heads": 2}
GROUPED = {**ONE, "num_key_value_heads": 1, "head_dim": 8}


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "opt", "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 8, "num_attention_heads": 2},
        {"model_type": "bloom", "hidden_size": 16, "n_layer": 1, "n_head": 2},
        {"model_type": "gemma2", "sliding_window": 5, **GROUPED},
        {"model_type": "mistral", "sliding_window": 5, **GROUPED},
        {"model_type": "mixtral", "num_local_experts": 3, **GROUPED},
        {"model_type": "switch_transformers", "num_experts": 2, "num_decoder_layers": 2, **SMALL},
        {"model_type": "mt5", **SMALL},
    ],
    ids=lambda config: config["model_type"],
)
def test_other_families_are_right(config: dict[str, object]) -> None:
    """ALiBi, windows shorter than the texts, capped scores, experts, and an output layer of a table of its own."""
    recipe = Recipe.load("toy_copy")
    recipe.model = settings(**config)
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    model, (line, *_) = build_model(recipe, 30, None, special)
    assert f"a {config['model_type']} of" in line
    assert model.shape.vocabulary == 30


FEW = {"hidden_size": 16, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_type": None}, "model_type: transformers has no None; it has t5, bart"),
        ({"model_type": ["t5"]}, r"model_type: transformers has no \['t5'\]; it has t5, bart"),
        ({"model_type": "T5"}, "model_type: transformers has no 'T5'; did you mean 't5'?"),
        ({"model_type": "t5", "num_layers": "two"}, "num_layers: 'two' is no int; a t5 has 6 by default"),
        ({"model_type": "t5", "d_ff": None}, "d_ff: None is no int; a t5 has 2048 by default"),
        ({"model_type": "t5", "dropout_rate": "a"}, "dropout_rate: 'a' is no float or int; a t5 has 0.1 by default"),
        ({"model_type": "bart", "decoder_layers": "a"}, "decoder_layers: 'a' is no int or null; a bart has 12"),
        ({"model_type": "t5", "vocab_size": "a"}, "vocab_size: 'a' is no int; a t5 has 32128 by default"),
        ({"model_type": "t5", "eos_token_id": "x"}, "eos_token_id: 'x' is no int or list or null; a t5 has 1"),
        ({"model_type": "t5", "d_model": 0}, r"d_model: 0 is not in 1 \.\. 1000000"),
        ({"model_type": "gpt2", "n_layer": -1}, r"n_layer: -1 is not in 1 \.\. 10000"),
        (
            {"model_type": "llama", "max_position_embeddings": 0},
            r"max_position_embeddings: 0 is not in 1 \.\. 10000000",
        ),
        ({"model_type": "llama", "attention_dropout": 1.0}, r"attention_dropout: 1.0 is not in \[0, 1\)"),
        (
            {"model_type": "llama", "hidden_act": "rellu"},
            "hidden_act: 'rellu' is no activation .*; did you mean 'relu'",
        ),
        (
            {"model_type": "t5", "feed_forward_proj": "gated-gellu"},
            "feed_forward_proj: 'gated-gellu' is no activation .*; did you mean 'gelu'",
        ),
        (
            {"model_type": "llama", **FEW, "hidden_size": 18},
            "num_attention_heads: 4 does not divide hidden_size: 18; 3",
        ),
        ({"model_type": "gpt2", "n_embd": 20}, "n_embd: 20 is no multiple of n_head: 12; 24 would be"),
        (
            {"model_type": "llama", **FEW, "num_key_value_heads": 3},
            "num_key_value_heads: 3 does not divide .*: 4; 2 would",
        ),
        ({"model_type": "t5", "pad_token_id": 30}, r"pad_token_id: 30 is not in 0 \.\. 29, the ids of the vocabulary"),
        ({"model_type": "t5", "is_decoder": True}, "is_decoder: the family decides it; leave it out"),
        ({"model_type": "llama", "dtype": "bfloat16"}, "dtype: run.precision is the key for it; leave it out"),
        ({"model_type": "llama", "rope_parameters": 3}, "rope_parameters: 3 is no "),
    ],
)
def test_values_that_no_configuration_can_have_are_one_line(values: dict[str, Any], reason: str) -> None:
    recipe = Recipe.load("toy_copy")
    recipe.model = ModelSettings(config=values)
    with pytest.raises(UserError, match=f"^model.config.{reason}") as error:
        build_model(recipe, 30, None, {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3})
    assert "\n" not in str(error.value)
