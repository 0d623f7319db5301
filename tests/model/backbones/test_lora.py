"""Runs under LoRA: frozen matrices stay, checkpoints hold the products alone, and exports have both in one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from exported import PAIRS
from foreign_runs import run_of
from safetensors.torch import load_file
from tiny_runs import assert_same_end, log, place, recipe
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import s2s
from s2s.errors import UserError
from s2s.model.backbones.configuration import ForeignArchitecture
from s2s.runs.checkpoints import load_model

pytest.importorskip("peft", reason="peft is not installed")
pytestmark = pytest.mark.slow
LORA = "model.lora={rank: 2, alpha: 8, dropout: 0.1, targets: auto}"
MORE = ["optimizer.rate=0.05", "run.ema=0.9", "run.save_every=2", "run.keep=4", "run.evaluate_every=4"]
HEADS = "heads={words: {name: zlpr, labels: target_words}}"
TEXTS = [source for source, _ in PAIRS[:2]]


def adapted(family: str, folder: Path, *overrides: str) -> s2s.Run:
    return run_of(family, folder, LORA, *MORE, HEADS, "run.steps=4", "model.dropout=0.1", *overrides)


@pytest.fixture(scope="module", params=["t5", "llama", "gpt2"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> s2s.Run:
    return adapted(request.param, tmp_path_factory.mktemp(request.param))


def test_checkpoints_hold_what_trains_and_the_rest_is_as_it_was(run: s2s.Run) -> None:
    stored = load_file(place(run.folder, 4) / "weights.safetensors")
    assert all(".lora_" in name or name.startswith("heads.") for name in stored)
    assert {name for name in stored if name.startswith("heads.")}
    base = load_file(run.folder / "base.safetensors")
    before = load_file(run.folder.parent / "checkpoint" / "model.safetensors")
    for name, tensor in base.items():
        assert torch.equal(tensor, before[name.replace(".base_layer", "")])
        assert torch.equal(tensor, run.model.inner.get_parameter(name))
    products = [tensor for name, tensor in stored.items() if ".lora_B." in name]
    assert products
    assert all(product.any() for product in products)
    report = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["report"]
    trained = sum(tensor.numel() for name, tensor in stored.items() if ".lora_" in name)
    assert any(line.startswith(f"model.lora: {trained:,} of ") for line in report)


def test_a_resumed_run_is_the_same_run_to_the_bit(run: s2s.Run, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(run.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    # The folder holds all that it needs.
    settings = s2s.Recipe.load(run.folder / "recipe.yaml", [f"run.folder={folder}"])
    s2s.fit(settings)
    assert_same_end(folder, run.folder, 4)


@torch.no_grad()
def test_an_export_has_the_runs_logits(run: s2s.Run, tmp_path: Path) -> None:
    run.export_transformers(tmp_path / "model")
    causal = vars(run.model.shape)["backbone"] == "causal_lm"
    model = (AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM).from_pretrained(tmp_path / "model").eval()
    assert not any("lora" in name for name in model.state_dict())
    tokenizer, vocabulary = AutoTokenizer.from_pretrained(tmp_path / "model"), run.vocabulary
    for source, target in PAIRS[:3]:
        ids, inputs = vocabulary.encode(target), tokenizer(source, return_tensors="pt").input_ids
        batch = vocabulary.batch([(source, target)])
        memory = run.model.encode(batch.source, batch.source_lengths)
        wanted = run.model.logits(run.model.decode(batch.target, memory))[0]
        if causal:
            scores = model(torch.cat([inputs, torch.tensor([ids])], dim=1)).logits[0, inputs.shape[1] - 1 :]
        else:
            scores = model(inputs, decoder_input_ids=torch.tensor([[vocabulary.start, *ids]])).logits[0]
        torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_a_small_folder_is_a_run_without_lora(run: s2s.Run, tmp_path: Path) -> None:
    run.save_pretrained(tmp_path / "small")
    assert not (tmp_path / "small" / "base.safetensors").exists()
    again = s2s.load(tmp_path / "small")
    assert not vars(again.model.shape)["lora"]
    for one, other in zip(again.score(TEXTS, TEXTS), run.score(TEXTS, TEXTS), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    frozen = load_model(str(run.folder)).model
    for one, other in zip(frozen.state_dict().values(), run.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_damaged_frozen_weights_are_refused(run: s2s.Run, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    path = folder / "base.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"base\.safetensors: "):
        s2s.load(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"base\.safetensors: the frozen weights of this run are missing"):
        s2s.load(folder)


def test_what_cannot_be_adapted_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.lora: .* the prefix LM trains whole"):
        s2s.fit(recipe(tmp_path / "run", "model.lora.rank=4"))
    with pytest.raises(UserError, match=r"model\.lora\.targets: .* neither auto nor a list of names"):
        recipe(tmp_path / "run", "model.lora.targets=3")
    with pytest.raises(UserError, match=r"model\.lora\.targets: \['nothing'\]"):
        adapted("llama", tmp_path / "other", "model.lora.targets=[nothing]")
    with pytest.raises(UserError, match=r"fgm_article: .* which model\.lora freezes; use fgm"):
        adapted("llama", tmp_path / "table", "mitigations=[{name: fgm_article}]")
    with pytest.raises(UserError, match=r"model\.lora\.rank: "):
        ForeignArchitecture("causal_lm", 5, {"model_type": "llama"}, [], {"rank": 0})


def test_bfloat16_trains_the_products(tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        run = adapted(
            "llama", tmp_path / precision, f"run.precision={precision}", "run.steps=2", "model.lora.dropout=0"
        )
        losses.append([record["loss"] for record in log(run.folder) if "loss" in record])
        stored = load_file(place(run.folder, 2) / "weights.safetensors")
        assert all(tensor.any() for key, tensor in stored.items() if ".lora_B." in key)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
