"""The results of a search as texts: whole hypotheses, or one hypothesis token by token."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from s2s.inference.generate import ModelEnsemble, SearchResult, constrained, refuse_nan, request_for
from s2s.machine.paths import computing, stepwise
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.constraints import prefix_of, reader
from s2s.search.streaming import StreamedToken
from s2s.vocabulary.base import Reader


class _Fields(NamedTuple):
    text: str
    score: float
    tokens: list[int]


class Hypothesis(_Fields):
    """A generated text, its score (log-probability over length ** length_penalty, or its method's own) and its ids.

    ``token_scores``, where a search is asked for them, are the model's log-probabilities of the tokens and of the end
    (which a hypothesis of ``max_length`` tokens does not have). They are not one of the tuple's three fields.
    """

    token_scores: list[float] | None = None


class Piece(NamedTuple):
    """The text that a token adds, perhaps none yet, and its log-probability; without a token, the text that is left."""

    text: str
    token: int | None
    log_prob: float


def hypotheses(reader: Reader, result: SearchResult) -> list[Hypothesis]:
    """Return a search's hypotheses with their texts, which the vocabulary or a file of allowed lines decodes."""
    decoded = [Hypothesis(reader.decode(ids), score, ids) for ids, score in result.hypotheses]
    # Without token scores the loop is empty; with them both lists must have one length.
    for hypothesis, scores in zip(decoded, result.token_scores or [], strict=result.token_scores is not None):
        hypothesis.token_scores = scores
    return decoded


def streamed(
    models: ModelEnsemble,
    source: Sequence[int],
    prefix: str,
    settings: SearchMethod,
    max_length: int,
    paths: Mapping[str, str],
) -> Iterator[Piece]:
    """Yield the text of a source piece by piece, beginning with the prefix, computed by these ``s2s.machine.paths``."""
    request = request_for(models, [(source, prefix_of(prefix, models.vocabulary))], settings, max_length)
    with computing(paths):  # the model is packed here
        scorer = models.scorer([source])
    tokens = settings.stream(constrained(scorer, settings, request), request)
    # Ways that a generator sets once would stay set while its caller works between two pieces.
    return pieces(reader(settings, models.vocabulary), stepwise(paths, tokens))


def pieces(reader: Reader, tokens: Iterable[StreamedToken]) -> Iterator[Piece]:
    """Yield a text as its tokens come; together the pieces are the text of all tokens.

    A character comes with its last byte. WordPiece's words come when two more have begun, since the blanks around a
    word depend on what follows. A last piece without a token has the text that is left at the end.
    """
    ids, written = list[int](), ""
    with refuse_nan():
        for _, token, log_prob in tokens:
            ids.append(token)
            settled = reader.settled(ids)
            yield Piece(settled[len(written) :], token, log_prob)
            written = settled
    text = reader.decode(ids)
    if text != written:
        yield Piece(text[len(written) :], None, 0.0)
