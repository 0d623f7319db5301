"""Perturbations of one example's token embeddings, step after step."""

import torch
from naive import cross_entropy, embedded, predict

from s2s.randomness import Draws


def length(parts):
    return sum(float(part.square().sum()) for part in parts) ** 0.5


def of_length(parts, wanted):
    return [part * wanted / (length(parts) + 1e-8) for part in parts]


def cut(parts, most):
    return of_length(parts, most) if length(parts) > most else parts


def words_of(model, example, scope):
    words = embedded(model, example)
    return words if scope == "all" else words[:1]


def ascent(model, example, scope, step, loss):
    """The gradient of a loss of log-probabilities with respect to the words, at the words and a step."""
    words = words_of(model, example, scope)
    leaves = [(word + by).detach().requires_grad_() for word, by in zip(words, step, strict=True)]
    return torch.autograd.grad(loss(predict(model, example, *leaves)), leaves)


def moved(model, example, scope, step):
    return predict(model, example, *(w + by for w, by in zip(words_of(model, example, scope), step, strict=True)))


def nothing(model, example, scope):
    return [torch.zeros_like(word) for word in words_of(model, example, scope)]


def drawn(batch, example, scope, name, width, gaussian):
    """The example's random start, drawn for it alone and without its padding."""
    draws, found = Draws(batch.seeds[example.row][None], name), []
    sides = [("target", len(example.target)), ("source", len(example.source))]
    for side, columns in sides if scope == "all" else sides[:1]:
        numbers = draws.normal(side, columns, width) if gaussian else 2 * draws.uniform(side, columns, width) - 1
        found.append(numbers[0].double())
    return found


def entropy_of(example, smoothing):
    return lambda chances: cross_entropy(chances, example.labels, smoothing)


def pgd_steps(model, example, scope, step, entropy, steps, stride, epsilon):
    """The perturbation after each ascent."""
    found = []
    for _ in range(steps):
        further = of_length(ascent(model, example, scope, step, entropy), stride)
        step = cut([part + more for part, more in zip(step, further, strict=True)], epsilon)
        found.append(step)
    return found
