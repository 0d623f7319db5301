"""Heads that label sources, together with generation or without it. ``HEADS`` has the rows of a recipe's ``heads:``."""

from s2s.heads.base import HeadSettings
from s2s.heads.chains.crf import CRF
from s2s.heads.chains.memm import MEMM, HalfLogitMEMM
from s2s.heads.chains.tag_schemes import SCHEMES, Constraints, bio_constraints, bmes_constraints, scheme_constraints
from s2s.heads.multilabel import pairwise_loss, sparse_zlpr_loss, zlpr_loss, zlpr_probabilities
from s2s.heads.subsets import log_symmetric_polynomials, subset_softmax_loss, thresholded_subset_softmax_loss
from s2s.heads.taggers import (
    BiMEMMTagger,
    BinaryClassifier,
    CRFTagger,
    MEMMTagger,
    SoftmaxTagger,
    ZLPRClassifier,
)

__all__ = [
    "CRF",
    "HEADS",
    "MEMM",
    "SCHEMES",
    "Constraints",
    "HalfLogitMEMM",
    "HeadSettings",
    "bio_constraints",
    "bmes_constraints",
    "log_symmetric_polynomials",
    "pairwise_loss",
    "scheme_constraints",
    "sparse_zlpr_loss",
    "subset_softmax_loss",
    "thresholded_subset_softmax_loss",
    "zlpr_loss",
    "zlpr_probabilities",
]

HEADS: dict[str, type[HeadSettings]] = {
    "softmax": SoftmaxTagger,
    "crf": CRFTagger,
    "memm": MEMMTagger,
    "bimemm": BiMEMMTagger,
    "zlpr": ZLPRClassifier,
    "bce": BinaryClassifier,
}
