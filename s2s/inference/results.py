"""What is found for a text, whole or as it comes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from s2s.inference.generate import ModelEnsemble, SearchResult, constrained, job_of, numbers
from s2s.machine.matmul import stepwise
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

    ``token_scores`` are, where a search was asked for them, the model's log-probabilities of the tokens and of the end
    behind them (none behind the last of ``max_length`` tokens). They stand beside the three fields.
    """

    token_scores: list[float] | None = None


class Piece(NamedTuple):
    """What a token adds to a text, which may be nothing yet, and its log-probability; without a token, what is left."""

    text: str
    token: int | None
    log_prob: float


def hypotheses(reader: Reader, answer: SearchResult) -> list[Hypothesis]:
    """Return the answer's hypotheses, read by the vocabulary or as the lines that are allowed."""
    found = [Hypothesis(reader.decode(ids), score, ids) for ids, score in answer.hypotheses]
    for hypothesis, scores in zip(found, answer.token_scores or [], strict=answer.token_scores is not None):
        hypothesis.token_scores = scores
    return found


def streamed(
    models: ModelEnsemble, source: Sequence[int], prefix: str, settings: SearchMethod, max_length: int, kernel: str
) -> Iterator[Piece]:
    """Give the text of a source that begins with the prefix, piece by piece; the named kernel computes its products."""
    job = job_of(models, [(source, prefix_of(prefix, models.vocabulary))], settings, max_length)
    told = settings.stream(constrained(models.scorer([source]), settings, job), job)
    # A generator's kernel would stay chosen between its pieces, so each step chooses it again.
    return pieces(reader(settings, models.vocabulary), stepwise(kernel, told))


def pieces(reader: Reader, tokens: Iterable[StreamedToken]) -> Iterator[Piece]:
    """Give a text as its tokens come; together the pieces are the text of all tokens.

    A character comes with its last byte. Of WordPiece's words the blanks depend on what follows, so they come when two
    more have begun. What is left at the end comes without a token.
    """
    ids, told = list[int](), ""
    with numbers():
        for _, token, log_prob in tokens:
            ids.append(token)
            settled = reader.settled(ids)
            yield Piece(settled[len(told) :], token, log_prob)
            told = settled
    text = reader.decode(ids)
    if text != told:
        yield Piece(text[len(told) :], None, 0.0)
