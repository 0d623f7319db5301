"""Heads that label sources, beside generation or alone: each row of the table is one in a recipe's ``heads:``."""

from s2s.labelling.classifiers import BinaryClassifier, ZLPRClassifier
from s2s.labelling.settings import HeadSettings
from s2s.labelling.taggers import BiMEMMTagger, CRFTagger, MEMMTagger, SoftmaxTagger

__all__ = ["HEADS", "HeadSettings"]

HEADS: dict[str, type[HeadSettings]] = {
    "softmax": SoftmaxTagger,
    "crf": CRFTagger,
    "memm": MEMMTagger,
    "bimemm": BiMEMMTagger,
    "zlpr": ZLPRClassifier,
    "bce": BinaryClassifier,
}
