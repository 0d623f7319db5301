"""Random replacement of decoder inputs: a cheap stand-in for the model's own errors."""

from dataclasses import dataclass

import torch

from s2s.batch import Batch
from s2s.config.ranges import Count, Positive, Share
from s2s.errors import UserError, nearest
from s2s.mitigations.base import Materials, Turn
from s2s.mitigations.noise import Noise
from s2s.mitigations.pools import POOLS, Choice, frequencies, plain_ids, special_ids


@dataclass
class RandomReplacement(Noise):
    """With probability ``gate`` an example has each token of its decoder input replaced with probability ``rate``.

    The new token is drawn from ``pool``; labels, source and the begin symbol stay. Source: Su 2020 (7259): gate 0.5,
    rate 0.3, pool "target". His script random_replacement.py has pool "sequence". Cost: none, but for "model_top_k" (a
    target pass without gradients). Teacher forcing at rate 0, gate 0 or weight 0. A draw may be the token itself, and
    the prefix stays as long as it was. Pools:

    - target: the tokens of the example's own target, each occurrence alike
    - sequence: begin, source, end, target, end of the example, each occurrence alike
    - vocabulary: all tokens but special ones, alike
    - unigram: all tokens as often as the training targets have them
    - similar: other tokens v in proportion to exp(cos(e_v, e_t) / temperature), but special ones (Takase and Kiyono
      2021's similarity-based replacement, with the cosine)
    - model_top_k: the model's ``top_k`` likeliest tokens for the place given the gold prefix, alike
    """

    rate: Share = 0.3
    gate: Share = 0.5
    pool: str = "target"  # a row of s2s.mitigations.pools.POOLS: where the new tokens come from
    top_k: Count = 10  # for pool model_top_k
    temperature: Positive = 0.1  # for pool similar

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in POOLS:
            raise UserError(f"pool: no '{self.pool}'{nearest(self.pool, POOLS)}")

    def prepare(self, materials: Materials) -> None:
        counted = frequencies(materials) if self.pool == "unigram" else None
        plain, special = plain_ids(materials.vocabulary), special_ids(materials.vocabulary)
        self._choice = Choice(plain, special, counted, self.top_k, self.temperature)

    def feed(self, batch: Batch, turn: Turn) -> Batch:
        drawn = POOLS[self.pool](batch, turn, self._choice)
        return batch._replace(target=torch.where(self.hits(batch, turn), drawn, batch.target))
