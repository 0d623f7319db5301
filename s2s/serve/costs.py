"""What a request may cost: hypotheses by number, and memory by arithmetic before any of it is taken.

Time is limited while the work runs, by ``s2s.serve.worker``.
"""

from s2s.errors import UserError
from s2s.model.architecture import Architecture
from s2s.runs.run import Run
from s2s.search.methods.base import SearchMethod

MOST = 64
"""The most hypotheses that a request may have searched at once, those of all groups of beams together."""
MOST_PLACES = 2000
"""The most bytes of required and forbidden texts together, each with one more."""
MOST_LINKS = 1 << 21
"""The most links between the places of the automaton of required and forbidden texts; a second or two makes them."""
MIB = 1 << 20
NUMBER = 4
"""Bytes of a float32."""

# Bytes of one entry of a table, measured on torch 2.13 and rounded up: most of the tables are made in several steps.
STEP = 60  # hypotheses x vocabulary: log-probabilities with filters or a penalty (45 measured, 16 for plain beams)
STEP_TEXTS = 50  # more for required and forbidden texts
SCORED = 12  # tokens x vocabulary: the log-probabilities of a whole hypothesis
PLACE = 160  # bytes of all texts x vocabulary: the automaton's tables (155 where every character is a word)
LINK = 150  # links between the automaton's places
TOKEN = 400  # tokens of all hypotheses: numbers, pieces and JSON
NGRAMS = 20_000  # the same where all texts' n-grams of characters are kept at once, of 12 characters a token
PART = 64 * MIB
"""The bytes that hypotheses may take whose tokens' probabilities are computed at once."""


def check_cost(run: Run, settings: SearchMethod, memory: int) -> None:
    """Refuse settings, a request's over the run's own, with which the longest source may take more than ``memory`` MiB.

    Raises ``UserError``, also for lengths that the run has no room for or that exclude each other.
    """
    run.check_lengths(settings)
    width, names = settings.width(), [name for name in ("samples", "groups", "beams") if hasattr(settings, name)]
    if width > MOST:
        raise UserError(f"search.{' x search.'.join(names)}: {width} is more than {MOST}")
    places, texts = places_of(settings), len(settings.required) + len(settings.forbidden)
    if places > MOST_PLACES or links_of(settings) > MOST_LINKS:
        raise UserError(
            f"search.required, search.forbidden: {texts} texts of {places} bytes together are too many to follow; "
            "ask for fewer or shorter ones"
        )
    needed, tokens = bytes_of(run, settings) // MIB, run.max_length(settings)
    if needed > memory:
        more = f" with {texts} required and forbidden texts" * bool(texts)
        raise UserError(
            f"search: {width} hypotheses of {tokens} tokens{more} may take {needed} MiB, more than memory={memory}; "
            "ask for fewer hypotheses or texts, or for a smaller max_length"
        )


def bytes_of(run: Run, settings: SearchMethod) -> int:
    """Return an upper bound of what a request takes, in bytes."""
    shape, rows, tokens, source = (
        run.model.shape,
        settings.width(),
        run.max_length(settings),
        run.recipe.data.max_source,
    )
    table, column, kept = rows * shape.vocabulary, _column(shape), _kept(shape)
    weights = NUMBER * sum(each.numel() for each in run.objective.parameters())
    precisions = [run.models(each).precision for each in (settings, run.recipe.search)]
    parts = [
        # Weights in other numbers than the run's own: a copy, and that laid out for decoding.
        2 * weights * (precisions[0] != precisions[1]),
        source * (column + kept) + 2 * NUMBER * shape.heads * source**2,
        # Keys and values: the buffer is rebuilt twice as large, with its columns picked out beside the old one.
        4 * rows * (tokens + 1) * kept,
        # Which columns each hypothesis sees: old, new and reordered.
        3 * NUMBER * rows * (source + 2 * rows * tokens),
        table * STEP,
        max(PART, scored_bytes(shape, source, tokens)),
        rows * tokens * TOKEN,
        _asked_for(settings, shape, source, tokens),
    ]
    return sum(parts)


def _asked_for(settings: SearchMethod, shape: Architecture, source: int, tokens: int) -> int:
    """Return the bytes of what only some settings need."""
    rows, vocabulary = settings.width(), shape.vocabulary
    found = 0
    if settings.required or settings.forbidden:
        places = places_of(settings)
        found += places * vocabulary * PLACE + links_of(settings) * LINK + rows * vocabulary * STEP_TEXTS
    if settings.no_repeat_ngram:
        found += rows * tokens**2 // 2
    if getattr(settings, "groups", 1) > 1:
        found += NUMBER * tokens * vocabulary  # how often each step's tokens were taken
    if getattr(settings, "coverage_penalty", 0):
        found += rows * (3 * _scores(shape, source, tokens) + tokens * _column(shape) + source * _kept(shape))
    if getattr(settings, "aggregate", False):
        found += rows * tokens * NGRAMS
    return found


def places_of(settings: SearchMethod) -> int:
    """Return the bytes of required and forbidden texts, and one for each; their automaton grows with them."""
    return sum(1 + len(text.encode("utf-8", "replace")) for text in [*settings.required, *settings.forbidden])


def links_of(settings: SearchMethod) -> int:
    """Return the most links between places, for each set of required texts that may have come."""
    return places_of(settings) ** 2 << len(settings.required) if settings.required else 0


def scored_bytes(shape: Architecture, source: int, tokens: int) -> int:
    """Return the bytes that the probabilities of one hypothesis's tokens take while they are computed."""
    columns = (source + tokens) * (_column(shape) + _kept(shape))
    return tokens * shape.vocabulary * SCORED + columns + 3 * _scores(shape, source, tokens)


def _column(shape: Architecture) -> int:
    """Return the bytes of a layer's activations of one column: queries, keys, values, the hidden layer, sums."""
    return NUMBER * (10 * shape.width + 2 * shape.feed_forward)


def _kept(shape: Architecture) -> int:
    """Return the bytes of what all layers keep of a column for later ones: keys and values."""
    return NUMBER * 2 * shape.width * shape.layers


def _scores(shape: Architecture, source: int, tokens: int) -> int:
    """Return the bytes of the attention of one hypothesis, in one layer."""
    return NUMBER * shape.heads * tokens * (source + tokens)
