"""Data sets: examples of a source text and the text to be generated from it."""

from s2s.data.dataset import Dataset, fingerprint, load
from s2s.data.example_store import Examples
from s2s.data.rows import Example
from s2s.data.settings import DataSettings

__all__ = ["DataSettings", "Dataset", "Example", "Examples", "fingerprint", "load"]
