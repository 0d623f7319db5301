"""The ways of searching: each row of the table is a ``name`` in a recipe's ``search:``."""

from s2s.search.method import SearchMethod
from s2s.search.risk import BeamRiskSettings, RiskSettings
from s2s.search.sampled import SampleSettings
from s2s.search.settings import DiverseSettings, SearchSettings, ShrinkingSettings

SEARCHES: dict[str, type[SearchMethod]] = {
    "beam": SearchSettings,
    "diverse": DiverseSettings,
    "shrinking": ShrinkingSettings,
    "sample": SampleSettings,
    "mbr": RiskSettings,
    "mbr_beam": BeamRiskSettings,
}
