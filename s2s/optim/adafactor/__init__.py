"""AdaFactor: second moments of a matrix in the memory of its rows and columns (Shazeer and Stern 2018)."""

from s2s.optim.adafactor.optimizer import Adafactor

__all__ = ["Adafactor"]
