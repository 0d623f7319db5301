"""Evaluation during training: the loss of the whole dev split and the scores of a decoded part, over all processes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from s2s.batch import Counts, add, count
from s2s.data import Example
from s2s.data.batches import TokenisedSplit, updates
from s2s.errors import UserError
from s2s.heads.evaluation import evaluate_heads, summed
from s2s.inference.generate import generate
from s2s.machine.precision import Precision, decoding_precision
from s2s.metrics import score
from s2s.objective import Objective
from s2s.recipe.recipe import Recipe
from s2s.search.methods.constraints import reader
from s2s.vocabulary import Vocabulary


def evaluate(
    accelerator: Accelerator,
    objective: Objective,
    vocabulary: Vocabulary,
    recipe: Recipe,
    examples: Sequence[Example],
    tokens: TokenisedSplit,
    precision: Precision,
) -> dict[str, float]:
    """The scores of a split: ``loss`` in nats a target token, those of ``s2s.metrics.score``, and those of heads.

    Without targets, ``loss`` is that of the heads. A score that nothing in the split has part in is not there.
    """
    training = objective.training
    objective.eval()
    scores = {}
    if objective.generates:
        scores["loss"] = dev_loss(accelerator, objective, vocabulary, recipe, tokens, precision)
        texts = _decode(accelerator, objective, vocabulary, recipe, tokens, precision)
        references = [list(example.references) or example.target for example in examples[: len(texts)]]
        scores |= score(texts, references, recipe.data.lang).values
    if objective.heads is not None:
        plan = updates(tokens.lengths(), recipe.run.tokens, recipe.run.seed, 0)
        found = evaluate_heads(accelerator, objective, objective.heads, vocabulary, examples, tokens, plan, precision)
        weights = objective.heads.weights
        losses = [weights[name] * found[f"{name}.loss"] for name in weights if f"{name}.loss" in found]
        scores = ({"loss": sum(losses)} if losses else {}) | scores | found
    objective.train(training)
    return scores


def check_select(recipe: Recipe, dev: Sequence[Example]) -> None:
    """Refuse to select by a score of a head of which no dev example has a label: it would be the same for ever.

    Labels that are made of targets are there where targets are; what else a score needs, the first evaluation tells.
    """
    name, _, score = recipe.run.select.rpartition(".")
    head = recipe.heads.get(name)
    if head is not None and head.field is not None and not any(head.has_labels(example) for example in dev):
        raise UserError(
            f"run.select: no dev example has a label of the head '{name}' (field '{head.field}'), so there is no "
            f"'{name}.{score}' to select by; give the dev split such labels, or select another score"
        )


@torch.no_grad()
def dev_loss(
    accelerator: Accelerator,
    objective: Objective,
    vocabulary: Vocabulary,
    recipe: Recipe,
    tokens: TokenisedSplit,
    precision: Precision,
) -> float:
    """Negative log-likelihood a target token over a whole split; each process takes its share of the batches."""
    plan = updates(tokens.lengths(), recipe.run.tokens, recipe.run.seed, 0)
    total, counts = torch.zeros((), dtype=torch.float64), [_no_counts()]
    for indices in plan[accelerator.process_index :: accelerator.num_processes]:
        batch = tokens.batch(indices, vocabulary).to(accelerator.device)
        units = count(batch)
        with precision.evaluation():
            total += objective.nll(batch).cpu().double()
        counts.append(Counts(*(unit.cpu() for unit in units)))
    nll_sum, tokens_sum = summed(accelerator, torch.stack([total, add(counts).target_tokens.double()])).tolist()
    return float(nll_sum / tokens_sum)


def _no_counts() -> Counts:
    return Counts(*(torch.zeros((), dtype=torch.long) for _ in Counts._fields))


def _decode(
    accelerator: Accelerator,
    objective: Objective,
    vocabulary: Vocabulary,
    recipe: Recipe,
    tokens: TokenisedSplit,
    precision: Precision,
) -> list[str]:
    """The best hypothesis for each of the first examples, in order, in every process."""
    sources = tokens.sources[: recipe.run.evaluate_examples]
    shares = numpy.array_split(numpy.arange(len(sources)), accelerator.num_processes)
    mine = [sources[index] for index in shares[accelerator.process_index]]
    max_length = recipe.search.max_length or recipe.data.max_target
    name = decoding_precision(recipe.search.precision, precision.name, accelerator.device)
    settings = replace(recipe.search, precision=name)
    found = generate(objective.model, vocabulary, mine, settings, max_length, lambda _: None)
    read = reader(recipe.search, vocabulary)
    texts = [read.decode(hypotheses[0][0]) if hypotheses else "" for hypotheses in found]
    return list(gather_object(texts)) if accelerator.num_processes > 1 else texts
