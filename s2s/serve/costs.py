"""Limits of a request: the number of its hypotheses, and an upper bound of its memory, computed before it is taken.

The worker limits the time while the work runs (``s2s.serve.worker``).
"""

from s2s.errors import UserError
from s2s.model.backbone import Shape
from s2s.runs.run import Run
from s2s.search.methods.base import SearchMethod

MOST = 64
"""The most hypotheses that a request may search at once, over all groups of beams."""
MOST_STATES = 2000
"""The most states of the automaton of required and forbidden texts: their bytes, and one more for each text."""
MOST_LINKS = 1 << 21
"""The most links between the states of that automaton, which takes a second or two to build."""
MIB = 1 << 20
NUMBER = 4
"""Bytes of a float32."""

# Bytes for each entry of a table, measured with torch 2.13 and rounded up: several copies exist while one is computed.
STEP = 60  # hypotheses x vocabulary: log-probabilities with filters or a penalty (45 measured, 16 for plain beams)
STEP_TEXTS = 50  # hypotheses x vocabulary: more for required and forbidden texts
SCORED = 12  # tokens x vocabulary: the log-probabilities of a whole hypothesis
STATE = 160  # states of the automaton x vocabulary (155 measured where every character is a word)
LINK = 150  # links between the automaton's states
TOKEN = 400  # tokens of all hypotheses: numbers, pieces and JSON
NGRAMS = 20_000  # tokens of all hypotheses, if the character n-grams of all texts are kept: 12 characters a token
PART = 64 * MIB
"""The memory for the log-probabilities of the hypotheses that are scored together."""


def check_cost(run: Run, settings: SearchMethod, memory: int) -> None:
    """Refuse settings with which the longest source may take more than ``memory`` MiB.

    Raises ``UserError``, also for lengths that exceed the model's or contradict each other.
    """
    run.check_search(settings)
    width, names = settings.width(), [name for name in ("samples", "groups", "beams") if hasattr(settings, name)]
    if width > MOST:
        raise UserError(f"search.{' x search.'.join(names)}: {width} is more than {MOST}")
    states, texts = _states(settings), len(settings.required) + len(settings.forbidden)
    if states > MOST_STATES or _links(settings) > MOST_LINKS:
        raise UserError(
            f"search.required, search.forbidden: {texts} texts of {states} bytes together are too many to follow; "
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
    """Return an upper bound of a request's memory in bytes."""
    shape, rows, tokens = run.model.shape, settings.width(), run.max_length(settings)
    source, vocabulary = run.recipe.data.max_source, shape.vocabulary
    weights = NUMBER * sum(parameter.numel() for parameter in run.objective.parameters())
    needed = [
        source * (_column(shape) + _kept(shape)) + 2 * NUMBER * shape.heads * source**2,
        # Keys and values: the buffer doubles when it is full, and its columns are picked out while the old one exists.
        4 * rows * (tokens + 1) * _kept(shape),
        # The columns that each hypothesis sees: old, new and reordered.
        3 * NUMBER * rows * (source + 2 * rows * tokens),
        rows * vocabulary * STEP,
        max(PART, scored_bytes(shape, source, tokens)),
        rows * tokens * TOKEN,
    ]
    if run.models(settings).precision != run.models(run.recipe.search).precision:
        needed.append(2 * weights)  # a copy in the other precision, and another laid out for decoding
    if settings.required or settings.forbidden:
        automaton = _states(settings) * vocabulary * STATE + _links(settings) * LINK
        needed.append(automaton + rows * vocabulary * STEP_TEXTS)
    if settings.no_repeat_ngram:
        needed.append(rows * tokens**2 // 2)
    if getattr(settings, "groups", 1) > 1:
        needed.append(NUMBER * tokens * vocabulary)  # how often the other groups took each token, at each step
    if getattr(settings, "coverage_penalty", 0):
        attention = 3 * _scores(shape, source, tokens)
        needed.append(rows * (attention + tokens * _column(shape) + source * _kept(shape)))
    if getattr(settings, "aggregate", False):
        needed.append(rows * tokens * NGRAMS)
    return sum(needed)


def _states(settings: SearchMethod) -> int:
    """Return an upper bound of the states of the automaton of required and forbidden texts."""
    return sum(1 + len(text.encode("utf-8", "replace")) for text in [*settings.required, *settings.forbidden])


def _links(settings: SearchMethod) -> int:
    """Return an upper bound of the links between states, over all sets of required texts that may be met already."""
    return _states(settings) ** 2 << len(settings.required) if settings.required else 0


def scored_bytes(shape: Shape, source: int, tokens: int) -> int:
    """Return the memory for the log-probabilities of one hypothesis's tokens while they are computed."""
    columns = (source + tokens) * (_column(shape) + _kept(shape))
    return tokens * shape.vocabulary * SCORED + columns + 3 * _scores(shape, source, tokens)


def _column(shape: Shape) -> int:
    """Return the bytes of one column's activations in a layer: queries, keys, values, the hidden layer, sums."""
    return NUMBER * (10 * shape.width + 2 * shape.feed_forward)


def _kept(shape: Shape) -> int:
    """Return the bytes of one column's keys and values in all layers, which are kept for later columns."""
    return NUMBER * 2 * shape.width * shape.layers


def _scores(shape: Shape, source: int, tokens: int) -> int:
    """Return the bytes of one hypothesis's attention scores in one layer."""
    return NUMBER * shape.heads * tokens * (source + tokens)
