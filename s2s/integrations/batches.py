"""The tensors that a model of ``transformers`` is called with, as a batch of sources and targets.

Shapes: B rows, C columns of ``input_ids``, L columns of ``labels``. Rows may be padded on either side; inside they
begin at column 0, so padding changes nothing.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from s2s.batch import IGNORED, Batch
from s2s.errors import UserError


class Span(NamedTuple):
    """The true columns of each row of a mask: the first one [B], their number [B], and whether they are one piece [B].

    A row without any has length 0 and begins anywhere.
    """

    start: Tensor
    length: Tensor
    whole: Tensor


def span(mask: Tensor) -> Span:
    """Find the true columns of each row of a mask [B, C]."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    length = mask.sum(dim=1)
    first = torch.where(mask, columns, mask.shape[1]).amin(dim=1)
    last = torch.where(mask, columns, -1).amax(dim=1)
    return Span(first, length, (last - first + 1 == length) | (length == 0))


def cut(rows: Tensor, start: Tensor, length: Tensor, fill: int) -> Tensor:
    """Return ``length`` [B] columns of rows [B, C] from ``start`` [B] on, padded on the right with ``fill``."""
    # At least one column: not every family takes rows of none.
    columns = torch.arange(max(1, int(length.max())), device=rows.device)
    index = (start[:, None] + columns).clamp(0, rows.shape[1] - 1)
    return rows.gather(1, index).masked_fill(columns >= length[:, None], fill)


def refuse_rows(wrong: Tensor, reason: str) -> None:
    """Raise a UserError that names the first row of ``wrong`` [B], if there is one."""
    if bool(wrong.any()):
        raise UserError(f"labels: row {int(wrong.nonzero()[0])} of the batch {reason}")


def mask_of(given: dict[str, Tensor]) -> Tensor:
    """Return which columns [B, C] of ``input_ids`` are tokens: all of them without an ``attention_mask``."""
    ids, mask = given["input_ids"], given.get("attention_mask")
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.shape != ids.shape:
        raise UserError(f"attention_mask: {list(mask.shape)}, where input_ids are {list(ids.shape)}; one mask a row")
    return mask.bool()


def of_encoder_decoder(model: Any, given: dict[str, Tensor], padding: int, seeds: Tensor) -> Batch:
    """Make a batch of the arguments of an encoder-decoder.

    The decoder's first input is the model's own, or that of ``decoder_input_ids``; the others are the labels, moved.
    """
    ids, labels = given["input_ids"].long(), given["labels"].long()
    source, target = span(mask_of(given)), span(labels != IGNORED)
    refuse_rows(~source.whole, "has gaps in its attention_mask")
    refuse_rows(~target.whole, "has labels in several pieces; methods edit or sample one target of one source")
    moved = cut(labels, target.start, target.length, IGNORED)
    inputs = torch.cat([_first_inputs(model, moved), moved[:, :-1]], dim=1)
    inputs = inputs.masked_fill(inputs == IGNORED, padding)
    if (theirs := given.get("decoder_input_ids")) is not None:
        if theirs.shape != labels.shape:
            raise UserError(f"decoder_input_ids: {list(theirs.shape)}, where labels are {list(labels.shape)}")
        inputs = _with_their_first(cut(theirs.long(), target.start, target.length, padding), inputs, moved, target)
    return Batch(cut(ids, source.start, source.length, padding), source.length, inputs, moved, seeds)


def _first_inputs(model: Any, labels: Tensor) -> Tensor:
    """Return the symbol [B, 1] that opens the decoder's input."""
    # Some families open it by a symbol of the row, such as the language that mBART's labels end with.
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        first: Tensor = model.prepare_decoder_input_ids_from_labels(labels=labels)[:, :1]
        return first
    return torch.full_like(labels[:, :1], model.config.decoder_start_token_id)


def _with_their_first(theirs: Tensor, inputs: Tensor, labels: Tensor, target: Span) -> Tensor:
    """Return the decoder's inputs with the first ones of the caller's. Errors: a UserError where others differ."""
    differ = ((theirs != inputs) & (labels != IGNORED))[:, 1:].any(dim=1)
    if bool(differ.any()):
        raise UserError(
            f"decoder_input_ids: those of row {int(differ.nonzero()[0])} are not its labels moved by one; mitigations "
            "edit the gold prefix themselves, so leave decoder_input_ids out"
        )
    # Before labels that are padded on the left there is padding and no first input.
    return torch.cat([torch.where(target.start[:, None] == 0, theirs[:, :1], inputs[:, :1]), inputs[:, 1:]], dim=1)


def of_causal_lm(given: dict[str, Tensor], padding: int, seeds: Tensor) -> Batch:
    """Make a batch of the arguments of a causal language model, whose prompts and targets share their rows.

    A target begins at the first label. The token before it, the last of the prompt, opens the decoder's input; those
    before that are the source, of which there may be none.
    """
    ids, labels, mask = given["input_ids"].long(), given["labels"].long(), mask_of(given)
    if labels.shape != ids.shape:
        raise UserError(f"labels: {list(labels.shape)}, where input_ids are {list(ids.shape)}; -100 marks the prompt")
    row, columns = span(mask), torch.arange(ids.shape[1], device=ids.device)
    refuse_rows(~row.whole, "has gaps in its attention_mask")
    refuse_rows(((labels != IGNORED) & ~mask).any(dim=1), "has labels where its attention_mask is 0; set them to -100")
    # Nothing predicts a row's first token.
    labelled = (labels != IGNORED) & (columns > row.start[:, None])
    target = span(labelled)
    refuse_rows(
        ~target.whole,
        "has labels in several pieces, such as several turns; methods edit or sample one target of one prompt, so give "
        "each turn a row of its own, with all before it as its prompt",
    )
    refuse_rows((labelled & (ids != labels)).any(dim=1), "has labels that are not its input_ids; the model moves them")
    prompt = torch.where(target.length > 0, target.start - 1 - row.start, row.length)
    return Batch(
        cut(ids, row.start, prompt, padding),
        prompt,
        cut(ids, target.start - 1, target.length, padding),
        cut(labels, target.start, target.length, IGNORED),
        seeds,
    )
