"""Heads that label sources, beside generation or alone: each row of the table is one in a recipe's ``heads:``."""

from s2s.labelling.settings import HEADS, HeadSettings

__all__ = ["HEADS", "HeadSettings"]
