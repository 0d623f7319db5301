"""Models as the library makes them, and our batches as a user's collator makes them."""

from functools import cache
from typing import Any

import torch
from foreign_models import FAMILIES
from tiny_tokenizers import whole
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from s2s.batch import IGNORED, Batch
from s2s.model.backbones.configuration import parsed
from s2s.vocabulary.pretrained import PretrainedVocabulary

PAIRS = [("the quick brown fox", "the fox"), ("dog", "lazy dog jumps over"), ("kicking quickly", "quickly kicking a")]
DROPOUTS = ("dropout_rate", "dropout", "attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop")


@cache
def vocabulary() -> PretrainedVocabulary:
    return whole("unigram")


def fresh(family: str, dropout: float = 0.0, **config: Any) -> Any:
    """A model in training mode."""
    special = {"pad_token_id": vocabulary().padding, "eos_token_id": vocabulary().end}
    begins = {"bos_token_id": vocabulary().begin, "decoder_start_token_id": vocabulary().end}
    known = parsed({"model_type": family})
    dropouts = {name: dropout for name in DROPOUTS if hasattr(known, name)}
    made = parsed({"vocab_size": vocabulary().size, **special, **begins, **FAMILIES[family], **dropouts, **config})
    torch.manual_seed(0)
    kind = AutoModelForSeq2SeqLM if made.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_config(made).train()


def batch() -> Batch:
    return vocabulary().batch(PAIRS)


def called_with(batch: Batch, family: str) -> dict[str, Tensor]:
    """The arguments of a model of the family, padded on the right."""
    inside = torch.arange(batch.source.shape[1]) < batch.source_lengths[:, None]
    if family in ("t5", "bart", "marian"):
        return {"input_ids": batch.source, "attention_mask": inside.long(), "labels": batch.labels}
    ids, labels = [], []
    for source, length, target, own in zip(*batch[:4], strict=True):
        tokens = own[own != IGNORED]
        ids.append(torch.cat([source[:length], target[:1], tokens]))
        labels.append(torch.cat([torch.full_like(ids[-1][: -len(tokens)], IGNORED), tokens]))
    return {
        "input_ids": stacked(ids, vocabulary().padding),
        "attention_mask": stacked([torch.ones_like(row) for row in ids], 0),
        "labels": stacked(labels, IGNORED),
    }


def stacked(rows: list[Tensor], fill: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)


def on_the_left(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same rows, padded on the left."""
    mask, labels = given["attention_mask"].bool(), given["labels"]
    kept = mask if labels.shape == mask.shape else labels != IGNORED
    moved = {name: _left(given[name], mask) for name in ("input_ids", "attention_mask")}
    return given | moved | {"labels": _left(labels, kept)}


def _left(rows: Tensor, kept: Tensor) -> Tensor:
    return torch.stack([torch.cat([row[~own], row[own]]) for row, own in zip(rows, kept, strict=True)])


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}


def assert_same(ours: tuple[Any, Tensor], theirs: tuple[Any, Tensor], tolerance: float = 1e-6) -> None:
    """Losses and gradients of two models with the same weights."""
    assert torch.isfinite(theirs[1])
    torch.testing.assert_close(ours[1], theirs[1], rtol=tolerance, atol=0)
    found, wanted = gradients(*ours), gradients(*theirs)
    assert found.keys() == wanted.keys()
    largest = max(float(grad.norm()) for grad in wanted.values())
    assert largest > 0
    for name, grad in wanted.items():
        assert float((found[name] - grad).norm()) <= tolerance * largest, name
