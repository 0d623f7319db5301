"""Required and forbidden texts against enumeration of all outputs, and against the texts that vocabularies write."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_tables import TableScorer, enumerated, random_table
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from s2s.search import ConstrainedScorer, NoRepeatedNgram, beam_search, sample_search
from s2s.search.texts import SpelledTexts
from s2s.vocabulary import pieces
from s2s.vocabulary.pretrained import PretrainedVocabulary

few = settings(deadline=None, max_examples=40)
SEEDS = st.integers(0, 2**32)
LONGEST, WIDE = 4, 700


def drawn(chance, most):
    """Some texts of a few bytes."""
    return [bytes(chance.choices(b"ab ", k=chance.randint(1, 3))) for _ in range(chance.randint(0, most))]


def spelling(chance):
    """What five tokens spell, the end nothing."""
    return [b"", *(bytes(chance.choices(b"ab ", k=chance.randint(0, 2))) for _ in range(4))]


def having(rows, required, forbidden, spelled):
    """The hypotheses whose text has all of the one and none of the other."""
    texts = [b"".join(spelled[token] for token in tokens) for tokens, _ in rows]
    good = [all(t in text for t in required) and not any(t in text for t in forbidden) for text in texts]
    return [row for row, is_good in zip(rows, good, strict=True) if is_good]


@given(seed=SEEDS, beams=st.sampled_from([1, 2, WIDE]))
@few
def test_every_hypothesis_has_what_is_required_and_nothing_forbidden(seed, beams):
    chance = random.Random(seed)
    required, forbidden, spelled = drawn(chance, 2), drawn(chance, 2), spelling(chance)
    table, longest = random_table(seed, 5, impossible=0.0), [chance.randint(1, LONGEST) for _ in range(3)]
    rule = SpelledTexts(required, forbidden, spelled, 0).rule(longest)
    found = beam_search(ConstrainedScorer(TableScorer(table, range(3)), [rule]), beams, longest, min(beams, 5))
    for name, rows in enumerate(found):
        good = having(enumerated(table, name, 5, longest[name]), required, forbidden, spelled)
        if beams == WIDE:
            assert rows == [(tokens, pytest.approx(score)) for tokens, score in good[:5]]
        assert bool(rows) == bool(good)
        assert all(tokens in [allowed for allowed, _ in good] for tokens, _ in rows)


@given(seed=SEEDS)
@few
def test_the_least_room_is_that_of_the_shortest_output(seed):
    chance = random.Random(seed)
    required, forbidden, spelled = drawn(chance, 2), drawn(chance, 1), spelling(chance)
    least = SpelledTexts(required, forbidden, spelled, 0).least()
    rows = enumerated(random_table(seed, 5, impossible=0.0), 0, 5, 4)
    good = having(rows, required, forbidden, spelled)
    shortest = min((len(tokens) for tokens, _ in good), default=5)
    assert min(least, 5) == shortest


@given(seed=SEEDS)
@few
def test_samples_under_texts_and_other_constraints_obey_all(seed):
    chance = random.Random(seed)
    spelled = [b"", b"a", b"b", b" ", b"ab"]
    required, forbidden = [b"ab"], [b"bb", b"  "]
    rules = [NoRepeatedNgram(2), SpelledTexts(required, forbidden, spelled, 0).rule([8])]
    scorer = ConstrainedScorer(TableScorer(random_table(seed, 5, impossible=0.0), [0]), chance.sample(rules, 2))
    for tokens, *_ in sample_search(scorer, 4, 8, [seed])[0]:
        assert having([(tokens, 0.0)], required, forbidden, spelled)


SENTENCES = ["a sentence to learn a few pieces from", "another sentence, with commas", "天气 很好"]


def word_pieces():
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sent", "##ence", "##s", "to", ",", "天", "##a"]
    tokenizer = Tokenizer(models.WordPiece({name: id for id, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return PretrainedVocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **special))


def test_spellings_add_up_to_the_texts_that_are_decoded():
    chance = random.Random(0)
    for vocabulary, first in ((pieces.train(SENTENCES, 300), 260), (word_pieces(), 5)):
        spelled = vocabulary.spell()
        assert len(spelled) == vocabulary.size
        assert spelled[vocabulary.end] == spelled[vocabulary.padding] == b""
        for _ in range(50):
            ids = vocabulary.encode("a") + [chance.randrange(first, vocabulary.size) for _ in range(6)]
            text = b"".join(spelled[id] for id in ids).decode()
            assert "".join(text.split()) == "".join(vocabulary.decode(ids).split())
        for sentence in SENTENCES[:2]:
            if first == 260:
                ids = vocabulary.encode(sentence)
                assert b"".join(spelled[id] for id in ids).decode() == f" {sentence}"


@pytest.mark.parametrize(("required", "forbidden"), [([b""], []), ([], [b""]), ([b"a"] * 11, [])])
def test_what_makes_no_sense_is_refused(required, forbidden):
    with pytest.raises(ValueError, match="texts have"):
        SpelledTexts(required, forbidden, [b"", b"a"], 0)
