"""Search for the best continuations of a source under anything that can score a next token."""

from s2s.search.beam import beam_search
from s2s.search.scorer import Scorer

__all__ = ["Scorer", "beam_search"]
