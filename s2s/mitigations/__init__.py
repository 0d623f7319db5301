"""Mitigations of exposure bias: each row of ``MITIGATIONS`` is a line in a recipe."""

from s2s.mitigations.adversarial import FastGradient, FreeLargeBatch, ProjectedGradient, VirtualAdversarial
from s2s.mitigations.base import (
    Composition,
    FrozenRun,
    LossMethod,
    Mitigation,
    PrefixMethod,
    PreparedMethod,
    TrainingContext,
    check,
)
from s2s.mitigations.consistency import ArticleRDrop, NoiseConsistency, RDrop
from s2s.mitigations.distillation import Distillation
from s2s.mitigations.gold import OffPolicy
from s2s.mitigations.gradient_penalty import ArticleFastGradient, ArticlePenalty, GradientPenalty
from s2s.mitigations.minimum_risk import MinimumRisk, SelfCritical, ShuffledRisk
from s2s.mitigations.prefix_noise import DuplicateNoise, RandomReplacement, ShiftNoise, SwapNoise, WordDropout
from s2s.mitigations.raml import RewardAugmented
from s2s.mitigations.ranking import CandidateRanking, PreferenceOptimisation
from s2s.mitigations.scheduled_sampling import ScheduledSampling
from s2s.mitigations.teaforn import TeacherForcingWithNGrams
from s2s.mitigations.token_losses import GraduatedLabelSmoothing, MixedCrossEntropy, Unlikelihood

__all__ = [
    "MITIGATIONS",
    "Composition",
    "FrozenRun",
    "LossMethod",
    "Mitigation",
    "PrefixMethod",
    "PreparedMethod",
    "TrainingContext",
    "check",
]

MITIGATIONS: dict[str, type[Mitigation]] = {
    "random_replacement": RandomReplacement,
    "word_dropout": WordDropout,
    "duplicate_noise": DuplicateNoise,
    "shift_noise": ShiftNoise,
    "swap_noise": SwapNoise,
    "scheduled_sampling": ScheduledSampling,
    "fgm": FastGradient,
    "fgm_article": ArticleFastGradient,
    "pgd": ProjectedGradient,
    "free_lb": FreeLargeBatch,
    "vat": VirtualAdversarial,
    "gradient_penalty": GradientPenalty,
    "gradient_penalty_article": ArticlePenalty,
    "r_drop": RDrop,
    "r_drop_article": ArticleRDrop,
    "noise_consistency": NoiseConsistency,
    "graduated_label_smoothing": GraduatedLabelSmoothing,
    "unlikelihood": Unlikelihood,
    "teaforn": TeacherForcingWithNGrams,
    "mixce": MixedCrossEntropy,
    "gold": OffPolicy,
    "distillation": Distillation,
    "raml": RewardAugmented,
    "mrt": MinimumRisk,
    "mrt_shuffled": ShuffledRisk,
    "self_critical": SelfCritical,
    "brio": CandidateRanking,
    "dpo": PreferenceOptimisation,
}
