"""Whether tags are of the scheme that a recipe names: those of another one would train, and mark other spans."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from s2s.errors import UserError
from s2s.heads.chains.tag_schemes import SCHEMES, Scheme, check_tag, split

Pair = tuple[str | None, str | None]
SHOWN = 40
"""Characters of a source in a message."""


class Tagged(NamedTuple):
    """The tags of one source."""

    source: str
    tags: Sequence[str]


def check_rows(head: str, scheme: str, rows: Iterable[Tagged], constrained: bool) -> None:
    """Refuse training tags that another scheme fits and this one does not, or that no constraint would allow.

    Sequences that fit no scheme at all, as of a few wrong tags, are read leniently unless ``constrained``. Raises a
    UserError of one line that names the tag, its source and the scheme that fits.
    """
    chosen, seen = SCHEMES[scheme], _pairs(rows)
    fitting = [name for name, other in SCHEMES.items() if _misfit(other, seen) is None]
    if (found := _misfit(chosen, seen)) is None:
        return
    before, after = found
    if _strange(chosen, after):
        check_named(head, scheme, Tagged(seen[found], [str(after)]), fitting)
    if fitting or constrained:
        place = f"'{after}' follows '{before}'" if before and after else f"'{after or before}' {_at(found)}"
        raise UserError(
            f"heads.{head}.scheme: {scheme} does not allow what the data has: {place} ('{seen[found][:SHOWN]}')"
            f"{_advice(fitting)}"
        )


def check_named(head: str, scheme: str, row: Tagged, fitting: Sequence[str] | None = None) -> None:
    """Refuse a row with a tag that the scheme does not know; a UserError names it, its source and what fits."""
    for name in row.tags:
        try:
            check_tag(name, SCHEMES[scheme])
        except UserError as error:
            fit = fitting if fitting is not None else [key for key in SCHEMES if not _strange(SCHEMES[key], name)]
            place = f"heads.{head}.scheme: {scheme}, but the data has the {error} ('{row.source[:SHOWN]}')"
            raise UserError(f"{place}{_advice(fit)}") from error


def _pairs(rows: Iterable[Tagged]) -> dict[Pair, str]:
    """Return all tags that follow each other, None at both ends, each with the first source that has them."""
    seen: dict[Pair, str] = {}
    for source, tags in rows:
        if tags:
            for pair in zip([None, *tags], [*tags, None], strict=True):
                seen.setdefault(pair, source)
    return seen


def _misfit(scheme: Scheme, seen: Iterable[Pair]) -> Pair | None:
    """Return a pair with a tag that the scheme does not know, or else one that it forbids, or None."""
    pairs = list(seen)
    strange = next((pair for pair in pairs if _strange(scheme, pair[1])), None)
    return strange or next((pair for pair in pairs if not scheme.allows(*pair)), None)


def _strange(scheme: Scheme, name: str | None) -> bool:
    return name is not None and split(name)[0] not in tuple(scheme.tags)


def _at(pair: Pair) -> str:
    return "stands first" if pair[0] is None else "stands last"


def _advice(fitting: Sequence[str]) -> str:
    if fitting:
        return f"; its tags fit scheme: {' or '.join(fitting)}"
    return f"; no scheme fits ({', '.join(SCHEMES)}): mend the tags, or leave scheme out to score tokens alone"
