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


def name_of(settings: SearchMethod) -> str:
    """The name of the settings' row."""
    return next(name for name, kind in SEARCHES.items() if type(settings) is kind)
