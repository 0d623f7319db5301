"""Where replacements come from: the frequencies of each pool against its definition, written as loops."""

import math
from collections import Counter

import pytest
import torch
from foreign_models import tiny
from foreign_tokenizers import gpt2, marian, t5
from sequences import feed
from transformers import AddedToken

from s2s.batch import collate, count
from s2s.data.batches import TokenisedSplit
from s2s.losses.passes import Passes
from s2s.mitigations.base import PreparedMethod, StepContext, TrainingContext
from s2s.mitigations.candidates import CandidateTools
from s2s.mitigations.prefix_noise import RandomReplacement
from s2s.mitigations.scheduled_sampling import ScheduledSampling
from s2s.randomness import Draws
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.pretrained import PretrainedVocabulary

PADDING, UNKNOWN, BEGIN, END, SIZE = 0, 1, 2, 3, 23
SPECIAL = {PADDING, BEGIN, END}
SOURCE, TARGET, LONG = [BEGIN, 7, 7, 9, END], [5, 6, 5, 8], [11, 12, 13, 14, 15, 16, 17]
TRAIN = [[5, 6, 5], [], [9, 5, 22]]
ROWS = 6000


class Letters(Vocabulary):
    size, padding, begin, end = SIZE, PADDING, BEGIN, END

    def encode_all(self, texts):
        return [[ord(letter) - ord("a") + 4 for letter in text] for text in texts]

    def decode(self, ids):
        return "".join(chr(token - 4 + ord("a")) for token in ids if token > END)

    def save(self, folder):
        """It has nothing to save."""


def prepared(pool, **keys):
    method = RandomReplacement(**({"rate": 1.0, "gate": 1.0, "pool": pool} | keys))
    train = TokenisedSplit([SOURCE] * len(TRAIN), TRAIN, [])
    context = TrainingContext(Letters(), lambda: train, max_source=20, max_length=20, load_model=None)
    return PreparedMethod("random_replacement", method, method.prepare(context))


def drawn(method, model=None, rows=ROWS):
    """The tokens at each column of ``TARGET``, [rows, 4]; a longer row in the batch pads all of them."""
    batch = collate([(SOURCE, TARGET)] * rows + [([BEGIN, *LONG, END], LONG)], PADDING, END)
    passes = None if model is None else Passes(model, 0.0, model)
    fed = feed(method, batch, StepContext(passes, Draws(batch.seeds, "random_replacement"), count(batch), 0, 1.0))
    return fed.target[:rows, 1 : len(TARGET) + 1]


def check(tokens, chances):
    """Counts of the tokens within five deviations and one of the chances, and no token without a chance."""
    counts, total = Counter(tokens.flatten().tolist()), tokens.numel()
    assert set(counts) <= {token for token, chance in chances.items() if chance > 0}
    assert sum(chances.values()) == pytest.approx(1)
    for token, chance in chances.items():
        assert abs(counts[token] - total * chance) <= 5 * math.sqrt(total * chance * (1 - chance)) + 1, token


def alike(tokens):
    return {token: count / len(tokens) for token, count in Counter(tokens).items()}


def test_target_has_each_occurrence_alike():
    tokens = drawn(prepared("target"))
    for column in range(len(TARGET)):
        check(tokens[:, column], alike(TARGET))


def test_past_has_each_earlier_occurrence_alike_and_keeps_the_first():
    tokens = drawn(prepared("past"))
    assert (tokens[:, 0] == TARGET[0]).all()
    for column in range(1, len(TARGET)):
        check(tokens[:, column], alike(TARGET[:column]))


def test_past_is_a_loop_over_the_draws_at_the_longest_too():
    target = list(range(4, SIZE)) * 30
    batch = collate([(SOURCE, target), (SOURCE, target[:9])], PADDING, END)
    uniform = Draws(batch.seeds, "random_replacement").uniform("token", len(target) + 1).double()
    context = StepContext(None, Draws(batch.seeds, "random_replacement"), count(batch), 0, 1.0)
    fed = feed(prepared("past"), batch, context)
    for row, length in enumerate((len(target), 9)):
        expected = [target[0], *(target[int(uniform[row, number + 1] * number)] for number in range(1, length))]
        assert fed.target[row, : length + 1].tolist() == [END, *expected]
    assert torch.equal(fed.labels, batch.labels)


def test_sequence_has_begin_source_end_target_and_end_with_repeats():
    tokens = drawn(prepared("sequence"))
    for column in range(len(TARGET)):
        check(tokens[:, column], alike([BEGIN, 7, 7, 9, END, 5, 6, 5, 8, END]))


def test_vocabulary_has_all_tokens_but_special_ones_alike():
    plain = [token for token in range(SIZE) if token not in SPECIAL]
    assert UNKNOWN in plain
    check(drawn(prepared("vocabulary")), alike(plain))


def test_unigram_has_tokens_as_often_as_the_training_targets():
    check(drawn(prepared("unigram")), alike([token for target in TRAIN for token in target]))


def cosine(first, second):
    return float(first @ second) / math.sqrt(float(first @ first) * float(second @ second))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_similar_has_other_tokens_by_the_softmax_of_the_cosine(random_model, temperature):
    model = random_model()
    table = model.embedding.tokens.weight.detach()
    drawn_tokens = drawn(prepared("similar", temperature=temperature), model)
    for column, token in enumerate(TARGET):
        others = [other for other in range(SIZE) if other not in SPECIAL and other != token]
        weights = {other: math.exp(cosine(table[token], table[other]) / temperature) for other in others}
        check(drawn_tokens[:, column], {other: weight / sum(weights.values()) for other, weight in weights.items()})


@pytest.mark.parametrize("top_k", [1, 3, SIZE, 100])
@torch.no_grad()
def test_model_top_k_has_the_likeliest_tokens_of_the_column_before(random_model, top_k):
    model = random_model()
    tokens = drawn(prepared("model_top_k", top_k=top_k), model, 1000)
    memory = model.encode(torch.tensor([SOURCE]), torch.tensor([len(SOURCE)]))
    for column in range(len(TARGET)):
        scores = model.logits(model.decode(torch.tensor([[END, *TARGET[:column]]]), memory))[0, -1].tolist()
        best = sorted(range(SIZE), key=lambda token: -scores[token])[:top_k]
        check(tokens[:, column], alike(best))


@pytest.mark.parametrize("pool", ["target", "past", "sequence", "vocabulary", "unigram"])
def test_the_draws_of_a_row_s_places_are_independent(pool):
    tokens = drawn(prepared(pool))
    pairs = Counter(zip(tokens[:, 0].tolist(), tokens[:, 1].tolist(), strict=True))
    first, second = alike(tokens[:, 0].tolist()), alike(tokens[:, 1].tolist())
    for token, chance in first.items():
        for other, share in second.items():
            expected = ROWS * chance * share
            assert abs(pairs[token, other] - expected) <= 5 * math.sqrt(expected) + 1


def with_sentinels():
    tokenizer = t5()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"]})
    return tokenizer, ["<extra_id_0>", "<extra_id_1>"]


def with_chat():
    """As Llama 3, whose marks are special pieces that no attribute of the tokenizer names."""
    tokenizer, marks = gpt2(), ["<|start_header_id|>", "<|end_header_id|>"]
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks])
    return tokenizer, marks


@pytest.mark.parametrize("pool", ["vocabulary", "unigram", "similar", "model_top_k"])
@pytest.mark.parametrize(
    ("family", "make"), [("t5", with_sentinels), ("llama", with_chat), ("marian", lambda: (marian(), []))]
)
def test_marks_of_a_tokenizer_are_never_drawn(family, make, pool):
    tokenizer, names = make()
    vocabulary, marks = PretrainedVocabulary(tokenizer), set(tokenizer.convert_tokens_to_ids(names))
    assert vocabulary.marks == marks
    special = {vocabulary.padding, vocabulary.begin, vocabulary.end}
    plain = {*range(vocabulary.size)} - marks - special
    assert vocabulary.plain_ids() == sorted(plain)
    assert vocabulary.unknown in plain | special
    # Every piece has been seen in training, and the model has rows that are no pieces.
    train = TokenisedSplit([[vocabulary.end]], [[*range(vocabulary.size)]], [])
    method = RandomReplacement(rate=1.0, gate=1.0, pool=pool, top_k=10_000, temperature=1.0)
    context = TrainingContext(vocabulary, lambda: train, max_source=20, max_length=20, load_model=None)
    method = PreparedMethod("random_replacement", method, method.prepare(context))
    ids = sorted(plain)[:8]
    batch = vocabulary.collate([([*ids, vocabulary.end], ids)] * 600)
    passes = Passes(tiny(family, vocabulary.size + 5), 0.0, None)
    context = StepContext(passes, Draws(batch.seeds, "random_replacement"), count(batch), 0, 1.0)
    with torch.no_grad():
        tokens = {*feed(method, batch, context).target[:, 1:].flatten().tolist()}
    # The model may write special pieces, as its search may.
    assert tokens == (plain | special if pool == "model_top_k" else plain)


@pytest.mark.parametrize("own", ["samples", "greedy", "words", "words_sampled"])
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_model_writes_no_rows_that_are_no_pieces(family, own):
    vocabulary = Letters()
    model = tiny(family, SIZE + 4)
    # Whatever the hidden state, one of the further rows is far likelier than any piece.
    rows = model.inner.get_output_embeddings().weight.data
    rows[SIZE:] = 50 * torch.eye(rows.shape[1])[:2].repeat(2, 1) * torch.tensor([1, 1, -1, -1])[:, None]
    rows[END] = 0  # seldom the likeliest, so that texts are long
    batch = collate([([*LONG, END], LONG)] * 50, PADDING, END)
    method = ScheduledSampling(rate=1.0, policy="always", noise=float(own == "words_sampled"))
    training = TrainingContext(vocabulary, lambda: None, max_source=20, max_length=9, load_model=None)
    prepared = method.prepare(training)
    context = StepContext(Passes(model, 0.0, model), Draws(batch.seeds, "own"), count(batch), 0, 1.0, prepared)
    if own.startswith("words"):
        with torch.no_grad():
            written = method.feed(batch, context).target[:, 1:]
            scores = model.logits(context.passes.hidden(batch))
        assert (scores.argmax(dim=-1) >= SIZE).float().mean() > 0.9
    else:
        tools = CandidateTools(vocabulary, 9, lambda *_: 0.0)
        candidates = tools.sample(batch, context, 2, own == "greedy")
        written = torch.tensor([token for row in candidates for candidate in row for token in candidate.ids])
    assert len(written)
    assert int(written.max()) < SIZE
