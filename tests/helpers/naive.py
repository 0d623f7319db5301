"""A slow model to check against: one example at a time, source and target as one sequence under one explicit mask."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from s2s.batch import IGNORED, Batch, Counts, collate
from s2s.losses.terms import Losses
from s2s.mitigations import MITIGATIONS, PreparedMethod
from s2s.objective import Objective, ObjectiveSettings

SIZES = st.lists(st.tuples(st.integers(2, 7), st.integers(0, 5)), min_size=1, max_size=3)
SEEDS = st.integers(0, 1000)
FIXED = [(5, 4), (3, 5), (6, 2)]
SHAPES = ({"norm": "pre"}, {"norm": "post", "transform": True})
few = settings(deadline=None, max_examples=5, phases=[Phase.explicit, Phase.generate])  # shrinking is slow here


class Example(NamedTuple):
    """One row of a batch without its padding."""

    row: int
    source: Tensor
    target: Tensor
    labels: Tensor


def examples(batch: Batch) -> list[Example]:
    found = []
    for row, length in enumerate(batch.source_lengths.tolist()):
        width = max((column + 1 for column, label in enumerate(batch.labels[row].tolist()) if label != IGNORED))
        found.append(Example(row, batch.source[row, :length], batch.target[row, :width], batch.labels[row, :width]))
    return found


def rows_of(batch: Batch, indices: Sequence[int]) -> Batch:
    """The batch of some of the examples, padded anew."""
    chosen = [examples(batch)[row] for row in indices]
    pairs = [(one.source.tolist(), one.target[1:].tolist()) for one in chosen]
    return collate(pairs, padding=0, end=3, seeds=[int(batch.seeds[row]) for row in indices])


def hidden_rows(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """The target's last rows [T, D] from token embeddings [S, D] and [T, D] of one example."""
    weights, shape = dict(model.named_parameters()), model.shape

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=1, keepdim=True) + shape.epsilon).sqrt()
        return scaled * weights[name + ".weight"] + weights[name + ".bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    def attend(x: Tensor, name: str) -> Tensor:
        each, heads = shape.width // shape.heads, []
        projected = linear(x, name + "query_key_value")
        for head in range(shape.heads):
            query, key, value = (part[:, head * each : (head + 1) * each] for part in projected.chunk(3, dim=1))
            chances = (query @ key.T / math.sqrt(each)).exp() * visible
            heads.append(chances / chances.sum(dim=1, keepdim=True) @ value)
        return linear(torch.cat(heads, dim=1), name + "output")

    def feed_forward(x: Tensor, name: str) -> Tensor:
        inner = linear(x, name + "feed_forward.0")
        return linear(inner * (1 + torch.erf(inner / math.sqrt(2))) / 2, name + "feed_forward.2")

    first, total, pre = len(source), len(source) + len(target), shape.norm == "pre"
    visible = torch.tensor([[k < first or first <= k <= q for k in range(total)] for q in range(total)])
    x = torch.cat([source, target]) + weights["embedding.positions.weight"][:total]
    x = x + weights["embedding.segments.weight"][[0] * first + [1] * len(target)]
    x = x if pre else norm(x, "embedding.norm")
    for layer in range(shape.layers):
        name = f"blocks.{layer}."
        if pre:
            x = x + attend(norm(x, name + "attention_norm"), name + "attention.")
            x = x + feed_forward(norm(x, name + "feed_forward_norm"), name)
        else:
            x = norm(x + attend(x, name + "attention."), name + "attention_norm")
            x = norm(x + feed_forward(x, name), name + "feed_forward_norm")
    return (norm(x, "final_norm") if pre else x)[first:]


def log_chances(model: nn.Module, hidden: Tensor) -> Tensor:
    """The log-probabilities [T, V] of the next token from last rows [T, D]."""
    if model.shape.transform:
        hidden = model.transform(hidden)
    scores = hidden @ model.embedding.tokens.weight.T + model.output_bias
    return scores - scores.exp().sum(dim=1, keepdim=True).log()


def embedded(model: nn.Module, example: Example) -> tuple[Tensor, Tensor]:
    """Token embeddings of the target [T, D] and of the source [S, D]."""
    table = model.embedding.tokens.weight
    return table[example.target], table[example.source]


def predict(model: nn.Module, example: Example, target: Tensor | None = None, source: Tensor | None = None) -> Tensor:
    """The log-probabilities [T, V] of one example, with other token embeddings where they are given."""
    words = embedded(model, example)
    target, source = (own if other is None else other for own, other in zip(words, (target, source), strict=True))
    return log_chances(model, hidden_rows(model, source, target))


def cross_entropy(chances: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The labels' cross-entropies, token after token."""
    total = chances.new_zeros(())
    for own, label in zip(chances, labels.tolist(), strict=True):
        if label != IGNORED:
            total = total - (1 - smoothing) * own[label] - smoothing * own.mean()
    return total


def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities [T, V], token after token."""
    total = ours.new_zeros(())
    for p, q in zip(ours, theirs, strict=True):
        total = total + sum(p[word].exp() * (p[word] - q[word]) for word in range(len(p)))
    return total


def tokens_of(batch: Batch) -> int:
    return sum(label != IGNORED for row in batch.labels.tolist() for label in row)


def mean_over(batch: Batch, loss: Callable[[Example], Tensor]) -> Tensor:
    """The examples' losses over the batch's labels."""
    return torch.stack([loss(example) for example in examples(batch)]).sum() / tokens_of(batch)


def objective_of(model: nn.Module, name: str | None = None, smoothing: float = 0.0, **keys: object) -> Objective:
    methods = [] if name is None else [PreparedMethod(name, MITIGATIONS[name](**keys))]
    return Objective(model, ObjectiveSettings(smoothing), methods)


def gradient(module: nn.Module, loss: Tensor) -> Tensor:
    """The gradients of all parameters in one row; a parameter that the loss does not reach has zeros."""
    parameters = list(module.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    zeros = (torch.zeros_like(parameter) for parameter in parameters)
    return torch.cat([(z if g is None else g).flatten() for g, z in zip(found, zeros, strict=True)])


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The norm of the difference, relative to theirs."""
    return float((ours - theirs).norm() / theirs.norm())


def assert_same(objective: Objective, batch: Batch, expected: Tensor, tolerance: float = 1e-8, **place: int) -> Losses:
    """The objective's loss and its gradients for every parameter are those of a naive loss."""
    losses = objective(batch, **place)
    torch.testing.assert_close(losses.total, expected, rtol=tolerance, atol=1e-12)
    terms = [value for name, value in losses.parts.items() if name not in ("loss", "nll")]
    torch.testing.assert_close(torch.stack(terms).sum(), losses.total.detach(), rtol=1e-12, atol=1e-12)
    ours, theirs = gradient(objective, losses.total), gradient(objective, expected)
    assert (ours - theirs).norm() <= tolerance * theirs.norm() + 1e-12
    sizes = [parameter.numel() for parameter in objective.parameters()]
    for own, other in zip(ours.split(sizes), theirs.split(sizes), strict=True):
        assert (own - other).norm() <= 10 * tolerance * other.norm() + 1e-9 * theirs.norm()
    return losses


def assert_adds_nothing(objective: Objective, batch: Batch, counts: Counts | None = None) -> None:
    """A batch's losses are exactly 0, and its gradients are there for every parameter and exactly 0."""
    losses = objective(batch, counts=counts)
    losses.total.backward()
    assert losses.total == 0
    assert all(value == 0 for value in losses.parts.values())
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def assert_teacher_forcing(objective: Objective, batch: Batch, exact: bool, counts: Counts | None = None) -> None:
    """The loss and its gradients are the plain ones, bit for bit where asked."""
    plain = Objective(objective.model, ObjectiveSettings(objective.label_smoothing))
    found, expected = (one(batch, counts=counts).total for one in (objective, plain))
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(found, expected, **tolerance)
    torch.testing.assert_close(gradient(objective, found), gradient(plain, expected), **tolerance)


def assert_other_than_teacher_forcing(objective: Objective, batch: Batch, margin: float = 1e-3) -> None:
    """The method's gradient is neither the plain one nor a multiple of it."""
    plain = Objective(objective.model, ObjectiveSettings(objective.label_smoothing))
    found, expected = (gradient(one, one(batch).total) for one in (objective, plain))
    along = (found @ expected) / (expected @ expected) * expected
    assert distance(found, expected) > margin
    assert (found - along).norm() > margin * found.norm()
