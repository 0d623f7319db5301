"""What may be asked: the bodies of requests, checked before anything is computed."""

import math
import re
import unicodedata
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

MOST_BYTES = 1 << 18
MOST_CHARACTERS = 20_000
WIDEST = 64
"""The most hypotheses, beams, samples or groups that a request may ask for."""
WIDTHS = {"beams", "n_best", "samples", "groups", "candidates"}


class Question(BaseModel):
    """A source to generate from, the run's name, and search settings: keys of a recipe's ``search:``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: str = Field(min_length=1, max_length=MOST_CHARACTERS)
    run: str | None = Field(default=None, description="a name that GET /health lists; null: the first")
    search: dict[str, str | bool | int | float | None] = Field(
        default_factory=dict, description="keys of a recipe's search:, over the run's own"
    )

    @field_validator("source")
    @classmethod
    def is_text(cls, source: str) -> str:
        """Refuse what no tokenizer should see: blanks alone, halves of surrogate pairs, control characters."""
        if not source.strip():
            raise ValueError("blank")
        for index, character in enumerate(source):
            kind = unicodedata.category(character)
            if kind == "Cs" or (kind == "Cc" and not character.isspace()):
                name = "half of a surrogate pair" if kind == "Cs" else "control character"
                raise ValueError(f"{name} U+{ord(character):04X} at character {index + 1}")
        return source

    @field_validator("search")
    @classmethod
    def is_small(cls, search: dict[str, Any]) -> dict[str, Any]:
        """Refuse numbers that are none, what costs too much, and names of the server's own modules."""
        for key, value in search.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{key} is not a finite number")
            if key in WIDTHS and isinstance(value, int) and value > WIDEST:
                raise ValueError(f"{key}: {value} is more than {WIDEST}")
            # A colon names a function of a module, a dollar sign asks for what the server knows.
            if isinstance(value, str) and not re.fullmatch(r"[\w.+-]*", value):
                raise ValueError(f"{key}: '{value}' is no plain word")
        return search
