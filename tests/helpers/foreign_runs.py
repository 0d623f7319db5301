"""Tiny runs from checkpoints of ``transformers`` with random weights and tokenizers such as theirs."""

from pathlib import Path

from exported import recipe
from foreign_models import FAMILIES, randomise
from foreign_tokenizers import bart, gpt2, marian, qwen, t5

import s2s
from s2s.model.backbones.configuration import MAPPINGS, kind_of, parsed

TOKENIZERS = {"t5": t5, "bart": bart, "marian": marian, "gpt2": gpt2, "llama": gpt2, "qwen3": qwen}


def run_of(family: str, folder: Path, *overrides: str, more: int = 0) -> s2s.Run:
    """A run of two updates from a checkpoint with random weights, its biases and norms too.

    No encoder-decoder is likely to write padding or the unknown piece, which a run does not write, but other programs
    leave out before they normalise probabilities.
    ``more`` are rows of its table that are no pieces, as T5's and Qwen's checkpoints have them.
    """
    tokenizer = TOKENIZERS[family]()
    start = tokenizer.eos_token_id if family == "bart" else tokenizer.pad_token_id
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    rows = len(tokenizer) + more
    config = parsed({"vocab_size": rows, "decoder_start_token_id": start, **special, **FAMILIES[family]})
    model = MAPPINGS[str(kind_of(config))][1].from_config(config)
    randomise(model)
    unlikely = [tokenizer.pad_token_id, tokenizer.unk_token_id]
    if family in ("bart", "marian"):
        model.final_logits_bias[:, unlikely] = -1e4
    if family == "marian":
        # As in its published checkpoints, whose padding is zeros; so unlikely, it learns nothing.
        model.get_input_embeddings().weight.data[start] = 0
    if family == "t5":
        model.get_input_embeddings().weight.data[unlikely] = 0
        model.decoder.final_layer_norm.weight.data *= 100
    model.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    own = ["optimizer.rate=1e-3", "search.beams=3", "search.length_penalty=1.0", "search.max_length=6"]
    return s2s.fit(recipe(folder / "checkpoint", folder, *own, *overrides))
