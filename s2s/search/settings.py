"""How to search."""

from dataclasses import dataclass

from s2s.errors import UserError


@dataclass
class SearchSettings:
    """A recipe's ``search:``; lengths are in tokens."""

    beams: int = 4
    n_best: int = 1
    max_length: int | None = None  # null: the longest target of training, data.max_target
    min_length: int = 0
    length_penalty: float = 0.0  # scores are divided by length ** length_penalty
    batch: int = 32  # sources searched together

    def __post_init__(self) -> None:
        for name in ("beams", "n_best", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"search.{name}: {getattr(self, name)} is not at least 1")
        if self.n_best > self.beams:
            raise UserError(f"search.n_best: {self.n_best} is more than search.beams: {self.beams}")
        if self.min_length < 0 or (self.max_length is not None and self.max_length < self.min_length):
            raise UserError(f"search.min_length: {self.min_length} must lie in 0 .. max_length ({self.max_length})")
