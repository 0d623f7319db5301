"""Losses and scores of heads over a whole split, over all processes."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from s2s.batch import count
from s2s.data import Example
from s2s.data.batches import Indices, TokenisedSplit
from s2s.heads.run_heads import Heads, rows_of
from s2s.heads.scoring import HeadOutput, can_measure
from s2s.machine.precision import Precision
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
        gold = [head.source.gold(*pair) for pair in zip(examples, tokens.heads[number], strict=True)]
        labelled = [index for index, labels in enumerate(gold) if labels is not None]
        if labelled and totals[number]:
            values[f"{head.name}.loss"] = float(losses[number] / totals[number])
        predicted, wanted = [by_index[index][number] for index in labelled], [gold[index] or () for index in labelled]
        for name, measure in head.settings.metrics().items():
            if can_measure(name, wanted):
                values[f"{head.name}.{name}"] = measure(predicted, wanted)
    return values
