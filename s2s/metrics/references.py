"""One reference a text, or several."""

from collections.abc import Sequence

from s2s.errors import UserError

References = Sequence[str | Sequence[str]]
"""For each text its reference, or a list of several."""


def listed(hypotheses: Sequence[str], references: References) -> list[list[str]]:
    """Return a list of references for each text; raises ``UserError`` for unpaired texts, and for none."""
    counts = f"{len(hypotheses)} hypotheses and {len(references)} references"
    if len(hypotheses) != len(references):
        raise UserError(f"{counts}: there must be one reference for each hypothesis")
    if not hypotheses:
        raise UserError(f"{counts}: there is nothing to score")
    lists = [[item] if isinstance(item, str) else list(item) for item in references]
    if [] in lists:
        raise UserError(f"text {lists.index([]) + 1} has no reference")
    return lists


def streams(lists: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Return the first references of all texts, then the second ones, as sacrebleu takes them; None for none."""
    most = max(map(len, lists))
    return [[row[index] if index < len(row) else None for row in lists] for index in range(most)]


def number(lists: Sequence[Sequence[str]]) -> str:
    """Return the number of references of a text for a signature; "var" where it varies."""
    counts = {len(row) for row in lists}
    return str(counts.pop()) if len(counts) == 1 else "var"
