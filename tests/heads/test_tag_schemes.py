"""Tags of one scheme under the name of another: refused with the scheme that fits, or read as what they are."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.data.rows import Example
from s2s.errors import UserError
from s2s.heads import HEADS, SCHEMES, scheme_constraints
from s2s.metrics.tags import spans

SPANS = st.lists(st.tuples(st.sampled_from(["", "PER", "PER", "LOC-X"]), st.integers(1, 4)), max_size=6)


def encoded(scheme, runs):
    """The tags of runs of tokens (kind, length) in a scheme, kind "" being no span; and the spans."""
    tags, marked, before = [], [], ""
    for kind, length in runs:
        first = len(tags)
        if kind:
            marked.append((kind, first, first + length))
        for index in range(length):
            alone, last = length == 1, index == length - 1
            if not kind:
                tag = "O"
            elif scheme == "bio":
                tag = "I" if index else "B"
            elif scheme == "iob1":
                tag = "B" if index == 0 and before == kind else "I"
            else:
                begin, inside, end, single = {"bmes": "BMES", "bioes": "BIES", "bilou": "BILU"}[scheme]
                tag = single if alone else end if last else inside if index else begin
            tags.append(f"{tag}-{kind}" if kind else tag)
        before = kind
    return tags, marked


def head(scheme, name="crf", **keys):
    return HEADS[name](field="tags", scheme=scheme, **keys)


def rows(*tags):
    return [Example(f"source {number}", "", (), (("tags", tuple(row)),)) for number, row in enumerate(tags)]


@pytest.mark.parametrize("scheme", SCHEMES)
@given(runs=SPANS)
@settings(deadline=None, max_examples=60)
def test_the_spans_of_a_scheme_are_read_as_they_were_written(scheme, runs):
    tags, wanted = encoded(scheme, runs)
    assert [tuple(span) for span in spans(tags)] == wanted
    if tags:
        names = sorted(set(tags))
        assert head(scheme, constrained=True).names("tags", rows(tags)) == names
        constraints, path = scheme_constraints(names, scheme), torch.tensor([names.index(tag) for tag in tags])
        assert constraints.starts[path[0]]
        assert constraints.ends[path[-1]]
        assert constraints.transitions[path[:-1], path[1:]].all()


@pytest.mark.parametrize("declared", SCHEMES)
@pytest.mark.parametrize("true", SCHEMES)
@given(runs=st.lists(SPANS.filter(bool), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_tags_of_any_scheme_under_any_name_are_refused_or_read_rightly(declared, true, runs):
    tags, wanted = zip(*(encoded(true, row) for row in runs), strict=True)
    if not any(wanted):
        return
    told = None
    try:
        head(declared).names("tags", rows(*tags))
    except UserError as error:
        told = str(error)
    if told is not None:
        assert declared != true
        assert told.startswith(f"heads.tags.scheme: {declared}")
        assert true in told.rpartition("its tags fit scheme: ")[2].split(" or ")
    else:
        assert [[tuple(span) for span in spans(row)] for row in tags] == [*wanted]


@pytest.mark.parametrize("name", ["softmax", "crf", "memm", "bimemm"])
@pytest.mark.parametrize(
    ("declared", "true"), [(ours, theirs) for ours in SCHEMES for theirs in SCHEMES if ours != theirs]
)
def test_enough_tags_of_another_scheme_are_always_refused(name, declared, true):
    """Spans of one token and of several, after other spans and after none."""
    runs = [("PER", 1), ("PER", 3), ("LOC", 2), ("", 2), ("LOC", 3), ("LOC", 1), ("", 1), ("PER", 4)]
    tags = [encoded(true, runs)[0], encoded(true, runs[::-1])[0]]
    with pytest.raises(
        UserError, match=rf"^heads\.tags\.scheme: {declared}[ ,].*\('source \d'\); its tags fit scheme: {true}$"
    ):
        head(declared, name).names("tags", rows(*tags))


@pytest.mark.parametrize(
    ("tags", "declared", "told"),
    [
        ("O U-PER O", "bio", "but the data has the label 'U-PER': 'U' is no tag of BIO; valid: B, I, O ('source 0')"),
        ("O U-PER O", "bio", "('source 0'); its tags fit scheme: bilou"),
        ("B L O", "bio", "its tags fit scheme: bilou"),
        ("B_PER I_PER", "bio", "label 'B_PER': 'B_PER' is no tag of BIO"),
        ("PER-B PER-I O", "bio", "'PER' is no tag of BIO"),
        ("b-per i-per", "bio", "'b' is no tag of BIO"),
        ("B-PER E-PER W-LOC", "bmes", "'W' is no tag of BMES"),
        ("O B-PER O B-PER", "bioes", "not allow what the data has: 'O' follows 'B-PER' ('source 0'); its tags fit"),
        ("O I-PER O I-PER", "bio", "'I-PER' follows 'O' ('source 0'); its tags fit scheme: iob1"),
        ("I-PER", "bio", "'I-PER' comes first"),
        ("O B-PER", "bmes", "'B-PER' comes last"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_tag_the_source_and_what_fits(tags, declared, told):
    with pytest.raises(UserError) as caught:
        head(declared).names("tags", rows(tags.split()))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_few_wrong_tags_are_read_leniently_and_refused_under_constraints():
    """``I`` after ``O`` here and there, among tags that are BIO's alone: no scheme fits."""
    tags = rows(["O", "B-PER", "I-PER"], ["O", "I-PER", "O"], ["B-PER", "B-LOC"])
    assert head("bio").names("tags", tags) == ["B-LOC", "B-PER", "I-PER", "O"]
    with pytest.raises(UserError, match=r"'I-PER' follows 'O' \('source 1'\); no scheme fits \(bio, iob1, "):
        head("bio", constrained=True).names("tags", tags)


def test_a_split_with_tags_of_another_scheme_is_refused_when_it_is_read():
    labels = head("bio").source("tags", ["B-PER", "I-PER", "O"], lambda example: example.source.split())
    with pytest.raises(UserError, match=r"label 'L-PER': 'L' is no tag of BIO.*\('a b'\); its tags fit scheme: bilou$"):
        labels(Example("a b", "", (), (("tags", ("B-PER", "L-PER")),)), None, [])


def test_without_a_scheme_any_tags_do():
    tags = [random.Random(0).choices(["NN", "B-x", "L_y", "O"], k=5)]
    assert head(None, "softmax").names("tags", rows(*tags)) == sorted(set(tags[0]))
