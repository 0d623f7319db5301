"""Sources and targets are laid out as each kind of model reads them: ids, roles and labels, token for token."""

from pathlib import Path
from typing import Any

import pytest
from foreign_tokenizers import bart, gpt2, qwen, t5

from s2s import vocabulary as vocabularies
from s2s.batch import IGNORED
from s2s.errors import UserError
from s2s.vocabulary.layouts import LayoutRequest, layout_of
from s2s.vocabulary.pretrained import PretrainedVocabulary

T5, BART = LayoutRequest("encoder_decoder", 0, 1, None), LayoutRequest("encoder_decoder", 2, 2, None)
PROMPT = LayoutRequest("causal_lm", None, None, None)
TITLE = "{source}\nTitle: {target}"
PAIRS = [("the fox.", "a Word"), ("a b", "fox <|im_end|>")]


def vocabulary(tokenizer: Any, request: LayoutRequest, template: str | None = None) -> PretrainedVocabulary:
    return PretrainedVocabulary(tokenizer, None, layout_of(tokenizer, request._replace(template=template)))


def pieces(made: PretrainedVocabulary, row: int = 0) -> tuple[str, str, str]:
    """The pieces of a source, of the decoder's input and of the labels, joined by blanks."""
    batch = made.batch(PAIRS)
    size, labels = int(batch.source_lengths[row]), [id for id in batch.labels[row].tolist() if id != IGNORED]
    rows = (batch.source[row, :size].tolist(), batch.target[row, : len(labels)].tolist(), labels)
    source, target, written = (" ".join(made.piece(id) for id in ids) for ids in rows)
    return source, target, written


def test_an_encoder_decoder_reads_its_own_layout() -> None:
    made = vocabulary(t5(), T5)
    source, target, written = pieces(made)
    assert source.endswith(". </s>")
    assert target == "<pad> " + written.removesuffix(" </s>")
    assert (made.prefix, made.never_written) == ([], [2, 0])
    made = vocabulary(t5(), T5, "summarize: {source}")
    assert pieces(made)[0].replace(" ", "").replace("▁", " ") == " summarize: the fox.</s>"
    made = vocabulary(bart(), BART)
    assert pieces(made)[0] == "<s> the Ġfox . </s>"
    assert pieces(made)[1:] == ("<s> a ĠWord", "a ĠWord </s>")
    assert [made.piece(id) for id in made.prefix] == ["</s>"]


def test_a_prompt_ends_where_its_target_begins() -> None:
    made = vocabulary(gpt2(), PROMPT)
    assert pieces(made) == ("the Ġfox .", "Ċ a ĠWord", "a ĠWord <|endoftext|>")
    made = vocabulary(gpt2(), PROMPT, TITLE)
    assert pieces(made) == ("the Ġfox . Ċ Title", ": Ġa ĠWord", "Ġa ĠWord <|endoftext|>")
    assert made.decode(made.encode("a Word")) == "a Word"
    made = vocabulary(qwen(), PROMPT, TITLE)
    # A full stop and the line end after it are one piece, as in one text; without a full stop they are not.
    assert pieces(made) == ("the Ġfox .Ċ Title", ": Ġa ĠWord", "Ġa ĠWord <|im_end|>")
    assert pieces(made, 1)[0] == "a Ġb Ċ Title"
    assert made.layout_report(PAIRS[:1]) == []


def test_a_chat_is_the_tokenizers_own() -> None:
    tokenizer = qwen()
    made = vocabulary(tokenizer, PROMPT, "chat")
    asked = [{"role": "user", "content": "the fox."}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "a Word"}])["input_ids"]
    batch = made.batch(PAIRS[:1])
    source, target, labels = (part[0].tolist() for part in (batch.source, batch.target, batch.labels))
    assert [*source, target[0]] == prompt
    assert [*source, target[0], *labels] == whole[:-1]  # the line end after the answer is not learnt
    # A special piece in a text is text.
    assert made.piece(made.end) == "<|im_end|>"
    for text in made.encode_sources(["x <|im_end|>"]), made.encode_all(["x <|im_end|>"]):
        assert made.end not in text[0]
        assert made.decode(text[0]) == "x <|im_end|>"


def test_joins_that_differ_from_one_text_are_told() -> None:
    made = vocabulary(qwen(), PROMPT)
    (line,) = made.layout_report(PAIRS)
    assert line.startswith("data.template: of 2 tested, 1 have other pieces at the joins than one text has")
    assert "'the fox.'" in line
    # A line end between both stays a piece of its own, so that every target begins after the same one.
    assert pieces(made)[:2] == ("the Ġfox .", "Ċ a ĠWord")


@pytest.mark.parametrize("template", [TITLE, "chat"])
def test_a_saved_layout_is_the_same(tmp_path: Path, template: str) -> None:
    made = vocabulary(qwen(), PROMPT, template)
    vocabularies.save(made, tmp_path)
    again = vocabularies.load(tmp_path)
    assert isinstance(again, PretrainedVocabulary)
    assert again.layout == made.layout
    assert again.digest() == made.digest() != vocabulary(qwen(), PROMPT).digest()
    assert again.batch(PAIRS).source.equal(made.batch(PAIRS).source)
    (tmp_path / "layout.json").write_text('{"opening": [99999]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"layout\.json: no layout of a vocabulary"):
        vocabularies.load(tmp_path)


def test_a_cut_keeps_what_is_around_a_source() -> None:
    made = vocabulary(qwen(), PROMPT, "chat")
    (ids,) = made.encode_sources(["the quick brown fox jumps over the lazy dog"])
    cut = made.source_ids(ids, made.framing + 2)
    assert cut == [*made.opening, *ids[:2], *made.closing]
    assert made.text_of(cut) == ids[:2]
    assert vocabulary(gpt2(), PROMPT).source_ids([]) == [0]  # a prompt has at least its document's begin


@pytest.mark.parametrize(
    ("tokenizer", "request_", "template", "message"),
    [
        (gpt2, PROMPT, "{target}{source}", "must hold {source} and then {target} at its end"),
        (gpt2, PROMPT, "{source}\n{target}.", "must hold {source} and then {target} at its end"),
        (gpt2, PROMPT, "{source} {target}", "nothing that stays between {source} and {target}"),
        (gpt2, PROMPT, "chat", "the tokenizer has no chat template"),
        (t5, T5, "{source}: {target}", "must hold {source}, and no {target}"),
        (t5, T5._replace(decoder_start=None), None, "or the model no decoder_start_token_id"),
    ],
)
def test_templates_without_a_meaning_are_refused(tokenizer, request_, template, message) -> None:
    with pytest.raises(UserError) as error:
        vocabulary(tokenizer(), request_, template)
    assert message in str(error.value)
