"""Losses and scores of heads over a whole split, over all processes."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from s2s.batch import count
from s2s.data import Example
from s2s.data.batches import Indices, TokenisedSplit
from s2s.heads.run_heads import Heads, gold_of, rows_of, scores
from s2s.heads.scoring import HeadOutput
from s2s.machine.precision import Precision
from s2s.vocabulary import Vocabulary


def summed(accelerator: Accelerator, sums: torch.Tensor) -> torch.Tensor:
    """Return the sums of all processes. One alone needs no device, which might have no float64."""
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
    """The loss of each head, as in training, and its scores; each process takes its share of the plan's batches.

    A head without a label in the split has none of them.
    """
    sums = torch.zeros(len(heads.heads), 2, dtype=torch.float64)
    found: list[tuple[int, list[HeadOutput]]] = []
    for indices in plan[accelerator.process_index :: accelerator.num_processes]:
        batch = tokens.batch(indices, vocabulary).to(accelerator.device)
        with precision.evaluation():
            rows = rows_of(objective.model, batch)
            units = count(batch)
            for place, term in enumerate(heads.terms(rows, batch).values()):
                sums[place] += torch.stack([each.cpu().double() for each in (term.sum, getattr(units, term.unit))])
            found.extend(zip(indices.tolist(), map(list, zip(*heads.say(rows, batch), strict=True)), strict=True))
    losses, totals = summed(accelerator, sums).unbind(dim=1)
    every = dict(gather_object(found) if accelerator.num_processes > 1 else found)
    values = {}
    for place, head in enumerate(heads.heads):
        gold = gold_of(head, examples, tokens.heads[place])
        real = [index for index, labels in enumerate(gold) if labels is not None]
        if real and totals[place]:
            values[f"{head.name}.loss"] = float(losses[place] / totals[place])
        values |= scores(head, [every[index][place] for index in real], [gold[index] or () for index in real])
    return values
