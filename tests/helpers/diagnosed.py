"""Helpers for tests of measurements: a vocabulary of numbers and random pairs of ids."""

import torch

from s2s.vocabulary import Vocabulary

PLAIN = [token for token in range(23) if token not in (0, 2, 3)]


class TinyVocabulary(Vocabulary):
    """Texts are ids as numbers; padding, begin and end are those of the tests' models."""

    size, padding, begin, end = 23, 0, 2, 3
    unknown = 0  # the padding, so that a search may write every other id

    def encode_all(self, texts):
        return [[int(word) for word in text.split()] for text in texts]

    def decode(self, ids):
        return " ".join(str(token) for token in ids if token not in (0, 2, 3))

    def save(self, folder):
        raise NotImplementedError


def pairs_of(lengths, seed):
    """Sources of different lengths, with begin and end, and random targets of these lengths."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length):
        return torch.randint(4, 23, (length,), generator=generator).tolist()

    return [([2, *ids(1 + (place * 2) % 5), 3], ids(length)) for place, length in enumerate(lengths)]


def talkative(model):
    """A random model whose greedy texts end at all places: an unchanged one repeats one word, or writes none."""
    with torch.no_grad():
        model.embedding.positions.weight *= 20
        model.output_bias[3] += 1
    return model
