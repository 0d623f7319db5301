"""Heads that label instead of generating: losses for several labels at once, and taggers of label sequences."""

from s2s.heads.constraints import SCHEMES, Constraints, bio_constraints, bmes_constraints, scheme_constraints
from s2s.heads.crf import CRF
from s2s.heads.memm import MEMM, HalfLogitMEMM
from s2s.heads.multilabel import pairwise_loss, sparse_zlpr_loss, zlpr_loss, zlpr_probabilities
from s2s.heads.subsets import log_symmetric_polynomials, subset_softmax_loss, thresholded_subset_softmax_loss

__all__ = [
    "CRF",
    "MEMM",
    "SCHEMES",
    "Constraints",
    "HalfLogitMEMM",
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
