"""Linear chains by enumeration: every label sequence one by one, in python's own floats."""

import itertools
import math

import torch


class Enumerated:
    """All sequences of one row, best first, with their scores; the chain may differ at each step."""

    def __init__(self, score, labels, length):
        paths = itertools.product(range(labels), repeat=length)
        self.labels, self.length = labels, length
        self.scores = dict(sorted(((path, score(path)) for path in paths), key=lambda item: -item[1]))

    @property
    def log_partition(self):
        best = max(self.scores.values())
        return best + math.log(math.fsum(math.exp(score - best) for score in self.scores.values()))

    def probability(self, path):
        return math.exp(self.scores[path] - self.log_partition)

    def marginals(self, columns):
        totals = torch.zeros(columns, self.labels, dtype=torch.float64)
        for path in self.scores:
            for column, label in enumerate(path):
                totals[column, label] += self.probability(path)
        return totals

    def pairs(self):
        """How often each label is expected to follow each."""
        totals = torch.zeros(self.labels, self.labels, dtype=torch.float64)
        for path in self.scores:
            for pair in itertools.pairwise(path):
                totals[pair] += self.probability(path)
        return totals


def crf_score(emissions, transitions, starts=None, ends=None):
    """The score of a path under a CRF, as a loop."""
    emissions, transitions = emissions.tolist(), transitions.tolist()
    starts, ends = ([0.0] * len(transitions) if edge is None else edge.tolist() for edge in (starts, ends))

    def score(path):
        total = starts[path[0]] + ends[path[-1]]
        total += sum(emissions[column][label] for column, label in enumerate(path))
        return total + sum(transitions[before][after] for before, after in itertools.pairwise(path))

    return score


def memm_score(emissions, transitions, scale=1.0):
    """The log-likelihood of a path under a MEMM from left to right, as a loop; later steps' logits are scaled."""
    emissions, transitions = emissions.tolist(), transitions.tolist()

    def score(path):
        total = log_softmax(emissions[0])[path[0]]
        for column in range(1, len(path)):
            moves = transitions[path[column - 1]]
            logits = [scale * (moves[label] + emissions[column][label]) for label in range(len(moves))]
            total += log_softmax(logits)[path[column]]
        return total

    return score


def log_softmax(logits):
    best = max(logits)
    normaliser = best + math.log(math.fsum(math.exp(logit - best) for logit in logits))
    return [logit - normaliser for logit in logits]


def random_chains(lengths, labels, seed, scale=2.0, dtype=torch.float64):
    """Emissions with nan at padding, labels with -100 there, and the mask, for rows of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    emissions = scale * torch.randn(*mask.shape, labels, generator=generator, dtype=torch.float64)
    gold = torch.randint(labels, mask.shape, generator=generator)
    return emissions.masked_fill(~mask[..., None], torch.nan).to(dtype), gold.masked_fill(~mask, -100), mask


def randomise(module, seed, scale=1.5):
    """The module in float64 with every parameter drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    for parameter in module.parameters():
        parameter.data.normal_(0.0, scale, generator=generator)
    return module
