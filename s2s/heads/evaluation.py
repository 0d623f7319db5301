"""Losses and scores of heads over a whole split, over all processes, and the sums of each example for tests."""

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from s2s.batch import count
from s2s.data import Example
from s2s.data.batches import Indices, TokenisedSplit, by_length, tokenise
from s2s.data.settings import DataSettings
from s2s.data.tokenised import Rows
from s2s.heads.run_heads import Head, Heads, labelling_of, rows_of
from s2s.heads.scoring import Gold, HeadOutput, can_measure, with_sums
from s2s.machine.precision import Precision
from s2s.metrics.bootstrap import Numbers
from s2s.model.backbone import Backbone
from s2s.vocabulary import Vocabulary


def summed(accelerator: Accelerator, sums: torch.Tensor) -> torch.Tensor:
    """Return the sums over all processes."""
    # A single process keeps them on the CPU: its device might have no float64.
    if accelerator.num_processes == 1:
        return sums
    total: torch.Tensor = accelerator.reduce(sums.to(accelerator.device), "sum")
    return total


@torch.no_grad()
def evaluate_heads(
    accelerator: Accelerator,
    objective: Any,
    heads: Heads,
    vocabulary: Vocabulary,
    examples: Sequence[Example],
    tokens: TokenisedSplit,
    plan: Sequence[Indices],
    precision: Precision,
) -> dict[str, float]:
    """Return the loss of each head, as in training, and its scores, each under ``HEAD.NAME``.

    Each process computes its share of the plan's batches. A score that no label of the split has a part in (of spans:
    no span) is left out: the mean of nothing is no number.
    """
    sums = torch.zeros(len(heads.heads), 2, dtype=torch.float64)
    outputs: list[tuple[int, list[HeadOutput]]] = []
    for indices in plan[accelerator.process_index :: accelerator.num_processes]:
        batch = tokens.batch(indices, vocabulary).to(accelerator.device)
        with precision.evaluation():
            rows = rows_of(objective.model, batch)
            units = count(batch)
            for number, term in enumerate(heads.terms(rows, batch).values()):
                sums[number, 0] += term.sum.cpu().double()
                sums[number, 1] += getattr(units, term.unit).cpu().double()
            outputs.extend(zip(indices.tolist(), map(list, zip(*heads.outputs(rows, batch), strict=True)), strict=True))
    losses, totals = summed(accelerator, sums).unbind(dim=1)
    by_index = dict(gather_object(outputs) if accelerator.num_processes > 1 else outputs)
    values = {}
    for number, head in enumerate(heads.heads):
        labelled, gold = _gold(head, examples, tokens.heads[number])
        if labelled and totals[number]:
            values[f"{head.name}.loss"] = float(losses[number] / totals[number])
        predicted = [by_index[index][number] for index in labelled]
        for name, measure in head.settings.metrics().items():
            if can_measure(name, gold):
                values[f"{head.name}.{name}"] = measure(predicted, gold)
    return values


def _gold(head: Head, examples: Sequence[Example], rows: Rows) -> tuple[list[int], Gold]:
    """Return the examples that have labels of a head, and these labels."""
    gold = [head.source.gold(*pair) for pair in zip(examples, rows, strict=True)]
    labelled = [index for index, labels in enumerate(gold) if labels is not None]
    return labelled, [gold[index] or () for index in labelled]


@torch.no_grad()
def head_sums(
    model: Backbone,
    heads: Heads,
    vocabulary: Vocabulary,
    data: DataSettings,
    examples: Sequence[Example],
    rows: int,
) -> dict[str, Numbers]:
    """Return the sums [examples, F] of each score that is a function of sums, each under ``HEAD.NAME``.

    The model gets ``rows`` sources at a time. An example without labels of a head has sums of 0. As in
    ``evaluate_heads``, a score that no label has a part in is left out.
    """
    labelling = labelling_of(heads.heads, data)
    tokens = tokenise(examples, vocabulary, data.max_source, data.max_target, "examples", labelling)
    order = by_length(tokens.lengths())
    outputs: dict[int, list[HeadOutput]] = {}
    for start in range(0, len(order), rows):
        indices = order[start : start + rows]
        batch = tokens.batch(indices, vocabulary).to(model.device)
        batch_outputs = heads.outputs(rows_of(model, batch), batch)
        outputs.update(zip(indices.tolist(), map(list, zip(*batch_outputs, strict=True)), strict=True))
    sums = {}
    for number, head in enumerate(heads.heads):
        labelled, gold = _gold(head, examples, tokens.heads[number])
        predicted = [outputs[index][number] for index in labelled]
        for name, measure in with_sums(head.settings.metrics()).items():
            if can_measure(name, gold):
                of_labelled = measure.sums(predicted, gold)
                sums[f"{head.name}.{name}"] = numpy.zeros((len(examples), of_labelled.shape[1]))
                sums[f"{head.name}.{name}"][labelled] = of_labelled
    return sums
