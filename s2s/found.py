"""What is found for a text, whole or as it comes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from s2s.matmul import stepwise
from s2s.search.generation import Answer, Models, constrained, job_of
from s2s.search.method import SearchMethod
from s2s.search.streaming import Told
from s2s.vocabulary import Vocabulary


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


def hypotheses(vocabulary: Vocabulary, answer: Answer) -> list[Hypothesis]:
    """The answer's hypotheses, read by the vocabulary."""
    found = [Hypothesis(vocabulary.decode(ids), score, ids) for ids, score in answer.hypotheses]
    for hypothesis, scores in zip(found, answer.token_scores or [], strict=answer.token_scores is not None):
        hypothesis.token_scores = scores
    return found


def streamed(
    models: Models, pair: tuple[Sequence[int], Sequence[int]], settings: SearchMethod, max_length: int, kernel: str
) -> Iterator[Piece]:
    """The text of a source and its prefix, piece by piece; float32 products are computed with the named kernel."""
    job = job_of(models, [pair], settings, max_length)
    told = settings.stream(constrained(models.scorer([pair[0]]), settings, job), job)
    # A generator's kernel would stay chosen between its pieces, so each step chooses it anew.
    return pieces(models.vocabulary, stepwise(kernel, told))


def pieces(vocabulary: Vocabulary, tokens: Iterable[Told]) -> Iterator[Piece]:
    """A text as its tokens come; together the pieces are the text of all tokens.

    A character comes with its last byte. A vocabulary that joins words afterwards, as WordPiece does around an
    apostrophe, may change what has been told; then nothing more is told but the tokens.
    """
    ids, told = list[int](), ""
    for _, token, log_prob in tokens:
        ids.append(token)
        whole = vocabulary.decode(ids).rstrip("\ufffd")
        new = whole[len(told) :] if whole.startswith(told) else ""
        told += new
        yield Piece(new, token, log_prob)
    text = vocabulary.decode(ids)
    if text.startswith(told) and text != told:
        yield Piece(text[len(told) :], None, 0.0)
