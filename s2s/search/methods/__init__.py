"""The search methods: each row of the table is a ``name`` in a recipe's ``search:``."""

from s2s.search.methods.base import SearchMethod
from s2s.search.methods.beam import DiverseSettings, SearchSettings, ShrinkingSettings
from s2s.search.methods.mbr import BeamRiskSettings, RiskSettings
from s2s.search.methods.sampling import SampleSettings

SEARCHES: dict[str, type[SearchMethod]] = {
    "beam": SearchSettings,
    "diverse": DiverseSettings,
    "shrinking": ShrinkingSettings,
    "sample": SampleSettings,
    "mbr": RiskSettings,
    "mbr_beam": BeamRiskSettings,
}
