"""Every row of ``search:`` through a run: its keys, its refusals, the same results in any batch and order."""

import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch

import s2s
from s2s.decoding.ensemble import ensemble, rerank
from s2s.errors import UserError
from s2s.metrics.sentence import sentence_metric
from s2s.runs.run import Run
from s2s.search.methods import SEARCHES

TEXTS = ["a b c d e", "b a", "j i h", "c c c", "d e f g h i", "a"]
ROWS: dict[str, dict[str, object]] = {
    "beam": {"beams": 3, "n_best": 2, "word_reward": 0.4},
    "diverse": {"groups": 3, "beams": 2, "n_best": 4, "length_penalty": 0.7},
    "shrinking": {"beams": 3},
    # Cut-offs that part near-equal tokens, as an untrained model has them, fall with rounding; this one is far away.
    "sample": {"samples": 3, "temperature": 0.8, "epsilon": 1e-6},
    "mbr": {"samples": 6, "epsilon": 1e-6, "n_best": 3},
    "mbr_beam": {"beams": 5, "n_best": 3, "aggregate": True},
}
LIMITS: list[dict[str, object]] = [
    {},
    {"max_length_ratio": 1.5, "max_length_offset": 1, "min_length_ratio": 0.5},
    {"no_repeat_ngram": 2, "repetition_penalty": 1.2, "min_length": 2},
    {"required": ["b c"], "forbidden": ["d", "a a"]},
    {"prefix": "e", "no_repeat_ngram": 1},
]


@pytest.fixture(scope="module")
def run(tiny_folder: Path) -> Run:
    return s2s.load(tiny_folder)


@pytest.fixture(scope="module")
def other(other_tiny_folder: Path) -> Run:
    return s2s.load(other_tiny_folder)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("limits", LIMITS)
def test_batch_and_order_change_nothing_and_limits_hold(run: Run, name: str, limits: dict[str, object]) -> None:
    keys = {"name": name, "max_length": 9, **ROWS[name], **limits}
    if name == "shrinking" and limits not in ({}, LIMITS[1]):
        with pytest.raises(UserError, match="adds 1e-12 to every probability, so it can forbid nothing"):
            run.generate(TEXTS, **keys)
        return
    if name == "shrinking":
        keys.pop("min_length_ratio", None)
    order = random.Random(name).sample(range(len(TEXTS)), len(TEXTS))
    found = run.generate(TEXTS, **keys, token_scores=True)
    shuffled = run.generate([TEXTS[index] for index in order], **keys, batch=2)
    for place, index in enumerate(order):
        assert [row.tokens for row in shuffled[place]] == [row.tokens for row in found[index]]
        assert [row.score for row in shuffled[place]] == pytest.approx([row.score for row in found[index]], abs=1e-4)
    for text, rows in zip(TEXTS, found, strict=True):
        assert rows
        assert len(rows) == len({tuple(row.tokens) for row in rows}) or name == "sample"
        assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
        for row in rows:
            holds(run, text, row, keys)


def holds(run: Run, text: str, row: s2s.Hypothesis, keys: dict[str, object]) -> None:
    """One hypothesis keeps to its limits, and its token scores are those of scoring."""
    longest, length = 9, len(run.vocabulary.encode(text))
    if ratio := keys.get("max_length_ratio"):
        longest = min(9, math.floor(ratio * length) + 1)  # type: ignore[operator]
    assert keys.get("min_length", 0) <= len(row.tokens) <= longest  # type: ignore[operator]
    if "min_length_ratio" in keys:
        assert len(row.tokens) >= min(longest, length // 2)
    if size := keys.get("no_repeat_ngram"):
        grams = list(zip(*(row.tokens[at:] for at in range(size)), strict=False))  # type: ignore[call-overload]
        assert len(grams) == len(set(grams))
    assert all(has_words(row.text, phrase) for phrase in keys.get("required", []))  # type: ignore[attr-defined]
    assert not any(has_words(row.text, phrase) for phrase in keys.get("forbidden", []))  # type: ignore[attr-defined]
    assert row.text.startswith(str(keys.get("prefix", "")))
    (wanted,) = run.score([text], [row.tokens])
    scored = wanted[: len(row.tokens) + (len(row.tokens) < longest)].tolist()
    assert row.token_scores == pytest.approx(scored, abs=1e-4)
    plain = not {"repetition_penalty", "word_reward", "length_penalty"} & keys.keys()
    if keys["name"] in ("beam", "sample") and plain:
        assert row.score == pytest.approx(sum(scored), abs=1e-3)


def has_words(text: str, phrase: str) -> bool:
    """Whether a text has a phrase of letters as whole words."""
    return re.search(rf"(?<![^\W_]){phrase}(?![^\W_])", text) is not None


def test_token_scores_are_beside_the_three_fields(run: Run) -> None:
    [[plain]], [[scored]] = run.generate(["a b"], max_length=4), run.generate(["a b"], max_length=4, token_scores=True)
    text, score, tokens = scored
    assert scored == plain == (text, score, tokens)
    assert plain.token_scores is None
    assert scored._asdict() == {"text": text, "score": score, "tokens": tokens}


def test_of_samples_minimum_risk_takes_the_most_alike(run: Run) -> None:
    keys = {"samples": 7, "max_length": 5, "seed": 3}
    chrf = sentence_metric("chrf")
    drawn = run.generate(TEXTS, name="sample", **keys)
    for n_best in (1, 7):
        risks = run.generate(TEXTS, name="mbr", **keys, n_best=n_best)
        for samples, ranked in zip(drawn, risks, strict=True):
            texts = [sample.text for sample in samples]
            worth = {text: sum(chrf(text, other) for other in texts) / 7 for text in texts}
            assert len(ranked) == min(n_best, len({tuple(sample.tokens) for sample in samples}))
            assert ranked[0].score == pytest.approx(max(worth.values()))
            assert all(row.score == pytest.approx(worth[row.text]) for row in ranked)


def test_samples_depend_on_source_and_seed_alone(run: Run) -> None:
    def drawn(*texts: str, samples: int = 4, seed: int = 0) -> list[set[str]]:
        found = run.generate(texts, name="sample", max_length=8, samples=samples, seed=seed)
        return [{row.text for row in rows} for rows in found]

    one, two = drawn("a b", "b c")
    assert drawn("b c") == [two]
    assert drawn("a b", "a b") == [one, one]
    assert not drawn("a b", seed=1)[0] & one
    assert drawn("a b", samples=2)[0] < one


def test_the_recipe_s_row_is_used_unless_another_is_asked_for(tmp_path: Path) -> None:
    run = tiny_runs.train(
        tmp_path / "run", "search={name: sample, samples: 2, temperature: 0.5, max_length: 4, seed: 5}"
    )
    found = run.generate(["a b"])
    assert found == run.generate(["a b"], name="sample", samples=2, temperature=0.5, max_length=4, seed=5)
    assert len(found[0]) == 2
    assert run.generate(["a b"], beams=1) == run.generate(["a b"], name="beam", max_length=None)


def test_each_source_has_a_prefix_of_its_own(run: Run) -> None:
    found = run.generate(["a b", "c", "d"], beams=2, prefixes=["h i", "", "j"], max_length=6)
    assert found[0][0].text.startswith("h i")
    assert found[2][0].text.startswith("j")
    assert found[1] == run.generate(["c"], beams=2, max_length=6)[0]


def test_only_the_lines_of_a_file_are_allowed(run: Run, tmp_path: Path) -> None:
    lines = ["a b c", "a b", "j", "c d e f"]
    (tmp_path / "allowed.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = run.generate(["a b", "j"], beams=9, n_best=4, allowed=str(tmp_path / "allowed.txt"), max_length=9)
    for text, rows in zip(["a b", "j"], found, strict=True):
        assert sorted(row.text for row in rows) == sorted(lines)
        sums = [float(each.sum()) for each in run.score([text] * 4, [row.tokens for row in rows])]
        assert [row.score for row in rows] == pytest.approx(sums, abs=1e-3)
    longest = len(run.vocabulary.encode("c d e f"))
    with pytest.raises(UserError, match=rf"line 4 has {longest} tokens, but max_length is 2"):
        run.generate(["a"], allowed=str(tmp_path / "allowed.txt"), max_length=2)


def test_an_ensemble_is_the_mean_of_probabilities(run: Run, other: Run) -> None:
    both = ensemble([run, other], [1.0, 3.0])
    found = both.generate(TEXTS, beams=3, max_length=7)
    for text, [best] in zip(TEXTS, found, strict=True):
        parts = [each.score([text], [best.tokens])[0].double().exp() for each in (run, other)]
        mean = (0.25 * parts[0] + 0.75 * parts[1]).log()
        assert best.score == pytest.approx(float(mean[: len(best.tokens) + (len(best.tokens) < 7)].sum()), abs=1e-3)
    with pytest.raises(UserError, match="2 runs need 2 positive weights"):
        ensemble([run, other], [1.0])


def test_a_second_run_ranks_anew(run: Run, other: Run) -> None:
    found = run.generate(TEXTS, beams=4, n_best=4, max_length=6, token_scores=True)
    for text, before, after in zip(TEXTS, found, rerank(other, TEXTS, found, 0.3), strict=True):
        sums = {tuple(row.tokens): float(other.score([text], [row.text])[0].sum()) for row in before}
        wanted = {tuple(row.tokens): 0.7 * row.score + 0.3 * sums[tuple(row.tokens)] for row in before}
        assert [row.score for row in after] == pytest.approx(sorted(wanted.values(), reverse=True))
        assert all(row.score == pytest.approx(wanted[tuple(row.tokens)]) and row.token_scores for row in after)
    assert rerank(other, [], []) == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "smple"}, "no 'smple'; did you mean 'sample'"),
        ({"name": "sample", "beams": 2}, "unknown search key 'beams' of 'sample'; it is one of beam, diverse"),
        ({"temperature": 0.5}, "unknown search key 'temperature' of 'beam'; it is one of sample, mbr"),
        ({"name": "sample", "temperature": 0.0}, "search.temperature: 0.0 is not above 0"),
        ({"name": "sample", "top_p": 1.5}, "search.top_p: 1.5 is not in (0, 1]"),
        ({"name": "sample", "samples": 2, "n_best": 3}, "search.n_best: 3 is more than search.samples: 2"),
        ({"name": "diverse", "groups": 2, "n_best": 3}, "search.n_best: 3 is more than groups"),
        ({"name": "mbr", "utility": "chr"}, "search.utility: metric: no 'chr'; did you mean 'chrf'"),
        ({"name": "mbr", "utility": "bleu", "aggregate": True}, "search.aggregate: only chrf"),
        ({"beams": "many"}, "search.beams: 'many' is not a whole number"),
        ({"stop": "soon"}, "search.stop: no 'soon'"),
        ({"max_length_offset": 2}, "search.max_length_offset: it is added to max_length_ratio"),
        ({"allowed": "x", "max_length_ratio": 2.0}, "search.max_length_ratio: with search.allowed"),
        ({"allowed": "nowhere.txt"}, "nowhere.txt: No such file"),
        ({"required": [" "]}, "search.required: ' ' is blank"),
        ({"required": ["a b c d e"], "max_length": 3}, "search.required: the texts take 5 tokens, but max_length is 3"),
        ({"required": ["a b"], "forbidden": ["b"]}, "search.required: the texts cannot come without one"),
        ({"prefix": "a b c d", "max_length": 2}, "search.prefix: it has 4 tokens, but max_length is 2"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(run: Run, keys: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        run.generate(["a b"], **keys)
    assert message in str(caught.value)


def test_sources_for_which_nothing_is_allowed_are_counted(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    keys = {"prefix": "a a", "no_repeat_ngram": 1, "max_length": 5}
    assert run.generate(["a", "b"], beams=2, **keys) == [[], []]
    assert "the search settings allow nothing for 2 of 2 sources" in caplog.text
    assert run.generate(["a"], name="sample", **keys) == [[]]
    assert "the search settings allow nothing for 1 of 1 sources" in caplog.text


@pytest.mark.parametrize("stop", ["safe", "never"])
def test_safe_stops_change_nothing(run: Run, stop: str) -> None:
    keys = {"beams": 3, "n_best": 3, "length_penalty": 0.8, "max_length": 8}
    assert run.generate(TEXTS, **keys, stop=stop) == run.generate(TEXTS, **keys)


@pytest.mark.parametrize("name", SEARCHES)
def test_no_search_writes_the_unknown_piece_however_likely_it_is(run: Run, name: str) -> None:
    bias, unknown = run.model.output_bias, run.vocabulary.unknown
    before = bias[unknown].item()
    with torch.no_grad():
        bias[unknown] = 1e4
    try:
        found = run.generate(TEXTS[:3], name=name, **{**ROWS[name], "max_length": 4})
        alone = {"beam": {"beams": 1}, "sample": {"samples": 1}}.get(name)
        told = [] if alone is None else list(run.stream("a b", name=name, **alone, max_length=4))
        [scores] = run.score(["a"], [[unknown]])
    finally:
        with torch.no_grad():
            bias[unknown] = before
    assert all(found)
    assert not any(unknown in row.tokens for rows in found for row in rows)
    assert not any(piece.token == unknown for piece in told)
    assert float(scores[0]) == pytest.approx(0, abs=1e-3)  # what is scored keeps it


def test_a_sampled_stream_ends_where_no_token_is_possible(run: Run, tmp_path: Path) -> None:
    (tmp_path / "allowed.txt").write_text("a b\n", encoding="utf-8")
    keys = {"name": "sample", "allowed": str(tmp_path / "allowed.txt"), "forbidden": ["*b*"], "max_length": 9}
    assert run.generate(["a"], samples=1, **keys) == [[]]
    assert len([piece for piece in run.stream("a", samples=1, **keys) if piece.token is not None]) < 9


@pytest.mark.parametrize("keys", [{"beams": 1}, {"name": "sample", "samples": 1}])
@pytest.mark.parametrize("limit", [{"forbidden": ["*b*"]}, {"prefix": "a c"}, {"no_repeat_ngram": 1}])
def test_a_stream_that_ends_within_an_allowed_line_has_the_text_of_its_tokens(
    run: Run, tmp_path: Path, keys: dict[str, object], limit: dict[str, object]
) -> None:
    (tmp_path / "allowed.txt").write_text("a b a\n", encoding="utf-8")
    keys = {**keys, **limit, "allowed": str(tmp_path / "allowed.txt"), "max_length": 9}
    assert run.generate(["a"], **keys) == [[]]
    pieces = list(run.stream("a", **keys))
    tokens = [piece.token for piece in pieces if piece.token is not None]
    assert 0 < len(tokens) < len(run.vocabulary.encode("a b a"))
    assert "".join(piece.text for piece in pieces) == run.vocabulary.decode(tokens)


HALF = "\ud800"


@pytest.mark.parametrize(
    ("texts", "keys", "message"),
    [
        ([HALF], {}, r"^texts\[0\]: the text holds half of a surrogate pair"),
        (["a", None], {}, r"^texts\[1\]: a text is needed, not None"),
        ([5], {}, r"^texts\[0\]: a text is needed, not int"),
        ([b"a"], {}, r"^texts\[0\]: a text is needed, not bytes"),
        ("a b", {}, "^texts: a list of texts is needed, not str"),
        (None, {}, "^texts: a list of texts is needed, not None"),
        (["a"], {"prefixes": [None]}, r"^prefixes\[0\]: a text is needed, not None"),
        (["a"], {"prefixes": [HALF]}, r"^prefixes\[0\]: the text holds half"),
        (["a"], {"prefixes": "b"}, "^prefixes: a list of texts is needed, not str"),
        (["a"], {"prefixes": ["b", "c"]}, "^prefixes: 2 for 1 sources"),
        (["a"], {"prefix": HALF}, "search.prefix: the text holds half"),
        (["a"], {"required": [HALF]}, "search.required: the text holds half"),
        (["a"], {"forbidden": [HALF]}, "search.forbidden: the text holds half"),
    ],
)
def test_what_is_no_text_is_one_line(run: Run, texts: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run.generate(texts, **keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.stream(None, beams=1), "^text: a text is needed, not None"),
        (lambda run: run.stream("a", prefix=5, beams=1), "^prefix: a text is needed, not int"),
        (lambda run: run.stream(HALF, beams=1), "^text: the text holds half"),
        (lambda run: run.score(["a"], [HALF]), r"^targets\[0\]: the text holds half"),
        (lambda run: run.score(["a"], [None]), r"^targets\[0\]: a text or a list of ids is needed \('NoneType' object"),
        (lambda run: run.score(["a"], [["b"]]), r"^targets\[0\]: a text or a list of ids is needed"),
        (lambda run: run.score(["a"], [[10**6]]), r"^targets\[0\]: no id 1000000; the vocabulary has the ids 0 \.\. "),
        (lambda run: run.score([None], ["a"]), r"^sources\[0\]: a text is needed"),
        (lambda run: run.score("a", ["a"]), "^sources: a list of texts is needed, not str"),
        (lambda run: run.score(["a"], "a"), "^targets: a list is needed, not str"),
        (lambda run: run.score(["a"], []), "^targets: 0 for 1 sources"),
        (lambda run: s2s.load(run.folder, device="gpu"), "^device: 'gpu' cannot be used here: "),
        (lambda run: s2s.load(run.folder, device="cuda:99"), "^device: 'cuda:99' cannot be used here: "),
        (lambda _: ensemble([]), "^runs: a list of one run or more is needed"),
        (lambda run: ensemble(run), "^runs: a list of one run or more is needed"),
        (lambda run: ensemble([run, "x"]), "^runs: a list of one run or more is needed"),
        (lambda run: ensemble([run, run], [1e308, 1e308]), r"^weights\[0\]: 1e\+308 is more than"),
        (lambda run: ensemble([run, run], [1.0, float("nan")]), r"^weights\[1\]: nan is no number"),
        (lambda run: ensemble([run, run], [1.0, 0]), r"^weights\[1\]: 0.* is not above 0"),
        (lambda run: ensemble([run, run], ["a", "b"]), r"^weights\[0\]: "),
        (lambda run: ensemble([run, run], "ab"), "^weights: 2 runs need 2 positive weights"),
        (lambda run: ensemble([run, run], 5), "^weights: 2 runs need 2 positive weights"),
        (lambda run: rerank(run, ["a"], []), "^hypotheses: those of 0 sources for 1 texts"),
        (lambda run: rerank(run, [], [], float("nan")), "^weight: nan is no number"),
        (lambda run: rerank(run, [], [], 2.0), r"^weight: 2.0 is not in \[0, 1\]"),
    ],
)
def test_calls_with_values_of_no_use_are_one_line(run: Run, call: Callable[[Run], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        call(run)
    assert "\n" not in str(caught.value)
