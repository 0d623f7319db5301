"""Required and forbidden texts against enumeration of all outputs, and against the texts that vocabularies write."""

import math
import random
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from search_tables import TableScorer, enumerated, random_table
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from s2s.errors import UserError
from s2s.search import ConstrainedScorer, ForcedPrefixes, NoRepeatedNgram, beam_search, sample_search
from s2s.search.methods import SEARCHES, constraints
from s2s.search.methods.base import Prefix, SearchRequest
from s2s.search.phrases import SpelledTexts, whole_words
from s2s.vocabulary import sentence_pieces
from s2s.vocabulary.pretrained import PretrainedVocabulary
from s2s.vocabulary.spelling import in_word

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
    for vocabulary, first in ((sentence_pieces.train(SENTENCES, 300), 260), (word_pieces(), 5)):
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


def roberta():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(special_tokens=names, initial_alphabet=alphabet, show_progress=False, vocab_size=330)
    tokenizer.train_from_iterator(WRITTEN, trainer)
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PretrainedVocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special))


def bert():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    trainer = trainers.WordPieceTrainer(special_tokens=[*names.values()], show_progress=False, vocab_size=150)
    tokenizer.train_from_iterator(WRITTEN, trainer)
    return PretrainedVocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names))


WRITTEN = [
    "perl is properly used in a perl-based program, perl's way",
    "an error: per her letter; perl",
    "使用perl语言 的 日本語です",
    "книга и книги, книгами",
    "كتاب، كتابة كتاب",
    "หนังสือดี",
]
WORDS = {
    "perl": [True, True, True, False, False, False],
    "per": [False, True, False, False, False, False],
    "er": [False] * 6,
    "*er*": [True, True, True, False, False, False],
    "er*": [False, True, False, False, False, False],
    "*er": [False, True, False, False, False, False],
    "perl's": [True, False, False, False, False, False],
    "日本": [False, False, True, False, False, False],
    "книг": [False] * 6,
    "книг*": [False, False, False, True, False, False],
    "книги": [False, False, False, True, False, False],
    "كتاب": [False, False, False, False, True, False],
}
MADE = {
    "wordpiece": bert,
    "byte-level": roberta,
    "unigram": lambda: sentence_pieces.train(WRITTEN, 330),
}


@cache
def made(name):
    return MADE[name]()


def keeps_to(vocabulary, text, required=(), forbidden=()):
    """Whether a text, as the vocabulary cuts it, has what is required and nothing forbidden."""
    texts = constraints.spelled_texts(vocabulary, tuple(required), tuple(forbidden))
    ids = vocabulary.encode(text)
    table = TableScorer(lambda _, __: [0.0] * vocabulary.size, [0])
    found = ConstrainedScorer(table, [ForcedPrefixes([ids]), texts.rule([len(ids)])])
    return [tokens for tokens, _ in beam_search(found, 1, len(ids))[0]] == [ids]


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("text", WORDS)
def test_texts_are_whole_words_but_where_a_star_says_otherwise(name, text):
    assert [keeps_to(made(name), line, required=[text]) for line in WRITTEN] == WORDS[text]
    assert [not keeps_to(made(name), line, forbidden=[text]) for line in WRITTEN] == WORDS[text]


@pytest.mark.parametrize("name", ["byte-level", "unigram"])
def test_writing_without_blanks_has_no_words(name):
    for part in ("หนังสือ", "ดี", "日本", "です"):
        line = next(line for line in WRITTEN if part in line)
        assert keeps_to(made(name), line, required=[part])
        assert not keeps_to(made(name), line, forbidden=[part])


def test_many_texts_may_be_forbidden():
    texts = [f"word{number}" for number in range(100)]
    assert keeps_to(made("unigram"), "word", forbidden=texts)
    assert not keeps_to(made("unigram"), "a word99", forbidden=texts)


@pytest.mark.parametrize(
    ("text", "at_start", "wanted"),
    [
        ("*er*", True, ("er", True, True)),
        ("er", True, ("er", False, False)),
        (r"\*er\*", True, ("*er*", False, False)),
        ("*", True, ("*", False, False)),
        ("*a", False, ("*a", False, False)),
        (r"a\*", False, ("a*", False, False)),
        (r"\*x", False, ("*x", False, False)),
        (r"\*x*", False, ("*x", False, True)),
    ],
)
def test_stars_open_an_end_and_can_be_meant(text, at_start, wanted):
    assert constraints.stars(text, at_start) == wanted


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(("text", "next_text"), [("a perl", "perl"), ("日本語", "です"), ("an error:", "per")])
def test_after_a_prefix_comes_no_rest_of_its_word(name, text, next_text):
    vocabulary = made(name)
    for prefix in (text, f"{text} "):
        free, held = constraints.prefix_of(f"{text}*", vocabulary), constraints.prefix_of(prefix, vocabulary)
        assert held.tokens == free.tokens == vocabulary.encode(text)
        assert free.in_word is None
        following = constraints.forced(job(vocabulary, held))(
            torch.zeros(1, vocabulary.size), torch.tensor([held.tokens]), torch.tensor([0])
        )[0]
        for id in range(vocabulary.size):
            before, after = vocabulary.decode(held.tokens), vocabulary.decode([*held.tokens, id])
            added = after.removeprefix(before)
            if vocabulary.piece(id).startswith("##"):
                assert following[id] == -math.inf
            elif added.isascii() and added != after and added:
                assert (following[id] == -math.inf) == (before[-1:].isalpha() and added[0].isalnum() and text < "z")
        assert following[vocabulary.encode(f"{text} {next_text}")[len(held.tokens)]] == 0
        assert following[vocabulary.end] == 0


def job(vocabulary, prefix):
    return SearchRequest([[0]], [50], [0], [prefix], vocabulary, lambda _: [])


@pytest.mark.parametrize("name", MADE)
def test_an_allowed_line_is_what_the_file_says(name, tmp_path, caplog):
    vocabulary, file = made(name), tmp_path / "allowed.txt"
    lines = ["Perl  is ", "日本語", "perl is", "a perl-based way"]
    if name == "unigram":
        lines[2] = "perl  is"
        lines.append("perl is")
    if name == "byte-level":
        lines.append("Perl is")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = constraints.allowed_lines(str(file), vocabulary)
    seen = {}
    for line in lines:
        first = seen.setdefault(tuple(vocabulary.encode(line)), line)
        assert found.decode(vocabulary.encode(line)) == first
        assert "".join(found.shares(vocabulary.encode(line))) == first
        ids = vocabulary.encode(line)
        for count in range(len(ids) + 1):
            assert found.decode(ids[:count]).startswith(found.settled(ids[:count]))
            assert first.startswith(found.settled(ids[:count]))
    assert len(found.lines) == len(seen) < len(lines)
    assert "the same to the vocabulary as an earlier one" in caplog.text
    for bad in ("\u200b", "\x00\x01", *(["😀"] if name == "wordpiece" else [])):
        file.write_text(f"perl\n{bad}\n", encoding="utf-8")
        with pytest.raises(UserError, match=r"^search\.allowed: .*allowed\.txt, line 2: .*$"):
            constraints.allowed_lines(str(file), vocabulary)


REFUSALS = {
    "required": lambda vocabulary, text: constraints.spelled_texts(vocabulary, (text,), ()),
    "forbidden": lambda vocabulary, text: constraints.spelled_texts(vocabulary, (), (text,)),
    "prefix": lambda vocabulary, text: constraints.prefix_of(text, vocabulary),
}


@pytest.mark.parametrize("key", REFUSALS)
@pytest.mark.parametrize("text", ["😀", "a 😀 b"])
def test_what_a_vocabulary_cannot_write_is_refused(key, text):
    with pytest.raises(UserError, match=rf"^search\.{key}: '{text}' has characters that the vocabulary cannot write$"):
        REFUSALS[key](made("wordpiece"), text)


@pytest.mark.parametrize(
    ("forbidden", "spelled", "reason"),
    [
        ([], b"ab", "the vocabulary cannot write the texts"),
        (["a"], b"a", "without one that search.forbidden names"),
    ],
)
def test_texts_that_cannot_come_are_refused_with_the_true_cause(monkeypatch, forbidden, spelled, reason):
    def texts(_, required, banned):
        rows = ([whole_words(text.encode()) for text in texts] for texts in (required, banned))
        return SpelledTexts(*rows, [b"", spelled], 0)

    monkeypatch.setattr(constraints, "spelled_texts", texts)
    with pytest.raises(UserError, match=rf"^search\.required: .*{reason}"):
        constraints.constraints_of(
            SEARCHES["beam"](required=["a"], forbidden=forbidden), job(made("unigram"), Prefix())
        )


PHRASES = ["ไท", "*ไท", "ไท*", "ພາ", "မြန်", "*नम*", "नमः", "perl", "*er*", "é", "日本", "ไทer", "𐌰𐌱", "а*"]
PARTS = [*"ไทยພາမန်नमः।৳ perlé日本語𐌰𐌱😀аб", *(text.replace("*", "") for text in PHRASES)]
SPELLED = [b"", *(bytes([byte]) for byte in range(256)), b" perl", "ไท".encode(), "é ".encode(), "日".encode()]
SPELLED += ["ไท".encode()[:4], "ไท".encode()[4:], "नम".encode()[1:], " न".encode()[:3], b""]


@cache
def byte_texts(phrase):
    text, opens, closes = constraints.stars(phrase)
    symbols = whole_words(text.encode(), not opens, not closes)
    return SpelledTexts([], [symbols], SPELLED, 0), SpelledTexts([symbols], [], SPELLED, 0)


def comes(phrase, text):
    """Whether a phrase comes in a text, looked for at each of its places."""
    phrase, opens, closes = constraints.stars(phrase)
    parts = [0 < at < len(text) and in_word(text[at - 1]) and in_word(text[at]) for at in range(len(text) + 1)]
    found = [at for at in range(len(text)) if text.startswith(phrase, at)]
    return any((opens or not parts[at]) and (closes or not parts[at + len(phrase)]) for at in found)


def cut_anyhow(text, chance):
    tokens, rest = [], text.encode()
    while rest:
        fitting = [id for id, spelled in enumerate(SPELLED) if rest.startswith(spelled) and id]
        tokens.append(chance.choice(fitting))
        rest = rest[len(SPELLED[tokens[-1]]) :]
    return tokens


@pytest.mark.parametrize("phrase", PHRASES)
def test_words_end_alike_however_bytes_and_pieces_spell_them(phrase):
    chance, (forbidden, required), seen = random.Random(phrase), byte_texts(phrase), set()
    for _ in range(100):
        text = "".join(chance.choices([*PARTS, phrase.strip("*")], [1] * len(PARTS) + [9], k=chance.randint(1, 5)))
        tokens = cut_anyhow(text, chance)
        place, banned = 0, False
        for id in [*tokens, 0]:
            banned |= bool(forbidden.banned[place, forbidden.columns[id]])
            place = int(forbidden.following[place, forbidden.columns[id]])
        place, come = required.after(torch.tensor([tokens]), required.columns)
        assert banned == (required.missing[place, come] == 0) == comes(phrase, text), (text, tokens)
        seen.add(comes(phrase, text))
    assert seen == {True, False}
    assert required.least() < math.inf


@pytest.mark.parametrize("text", ["ไทย", "ພາສາ", "မြန်မာ", "हिन्दी।"])
def test_a_script_that_a_vocabulary_has_not_seen_can_be_required_and_forbidden(text):
    vocabulary = sentence_pieces.train(["only latin letters are here", "no others"], 300)
    assert keeps_to(vocabulary, f"a {text}", required=[text])
    assert not keeps_to(vocabulary, f"a {text} a", forbidden=[text])
    assert keeps_to(vocabulary, "a letter", forbidden=[text])


@pytest.mark.parametrize("name", MADE)
def test_a_prefix_has_no_forbidden_text(name):
    vocabulary, banned = made(name), SEARCHES["beam"](forbidden=["perl", "使用"])
    for text in ("a perl", "a perl is", "a perl is*", "使用", "使用*"):
        with pytest.raises(UserError, match=r"^search\.forbidden: the prefix '.*' has a text that is forbidden"):
            constraints.constraints_of(banned, job(vocabulary, constraints.prefix_of(text, vocabulary)))
    constraints.constraints_of(banned, job(vocabulary, constraints.prefix_of("a perl*", vocabulary)))


def test_no_token_without_text_parts_a_prefix_from_the_rest_of_its_word():
    vocabulary, beam = made("wordpiece"), SEARCHES["beam"]()
    assert constraints.textless(job(vocabulary, Prefix()), beam) == [0]
    assert constraints.textless(job(vocabulary, constraints.prefix_of("a perl", vocabulary)), beam) == [0, 1, 3]
