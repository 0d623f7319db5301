"""A study: its file, its runs (resumable, one after another or side by side), its small results and its page."""

import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from shared_runs import shared_folder

from s2s.data import load
from s2s.errors import UserError
from s2s.files.locks import locked
from s2s.metrics import score
from s2s.metrics.bootstrap import mean
from s2s.study import results
from s2s.study.__main__ import _failures, main
from s2s.study.comparison import Comparisons
from s2s.study.measuring import Clock
from s2s.study.page import page, record, remarks, write_page
from s2s.study.results import Table
from s2s.study.runner import Process, Progress, _reason, minutes, progress, remaining
from s2s.study.settings import KEPT, OTHERS, STUDIES, UNDIRECTED, Plan, read_plan

FILE = """\
title: does noise help copying
recipe:
  base: toy_copy
  data: {size: 300}
  model: {width: 16, layers: 1, heads: 2}
  run: {steps: 12, evaluate_every: 4, save_every: 4, evaluate_examples: 10, tokens: 256}
variants:
  teacher_forcing: {minutes: 2}
  replacement:
    minutes: 4
    mitigations: [{name: random_replacement, rate: 0.3}]
seeds: [1, 2]
searches:
  greedy: {beams: 1, examples: 20}
  beam_2: {beams: 2, examples: 20}
diagnose: {examples: 15, beams: [1, 2], search_examples: 5, prefixes: [2], distances: 3}
hypotheses:
  - {name: difference, endpoint: beam_2.chrf, variant: replacement}
  - {name: non_inferiority, endpoint: greedy.seq_rep_2, variant: replacement, margin: 5}
"""


def write(folder: Path, text: str = FILE) -> Path:
    path = folder / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def plan_of(folder: Path, text: str = FILE, *overrides: str) -> Plan:
    return read_plan([f"study={write(folder, text)}", f"folder={folder / 'weights'}", *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    def make(folder: Path) -> None:
        folder.mkdir()
        assert main([f"study={write(folder)}", f"folder={folder / 'weights'}"]) == 0

    return shared_folder(tmp_path_factory, "study", make)


def stored(folder: Path) -> dict[str, results.Result]:
    return {path.name: results.read(path) for path in sorted((folder / "results" / "toy").glob("*.xz"))}


WRONG = [
    ("title: does", "titel: does", r"toy.yaml:1: unknown key 'titel'; did you mean 'title'"),
    ("rate: 0.3", "rat: 0.3", r"toy.yaml:11: unknown key 'mitigations\[0\].rat'"),
    ("base: toy_copy", "base: toy_cop", r"recipe 'toy_cop'.*did you mean 'toy_copy'"),
    ("seeds: [1, 2]", "seeds: [1, 1]", r"toy.yaml:12: seeds: \[1, 1\] are not different"),
    ("beam_2.chrf, variant: replacement", "beam_2.chrf, variant: other", r"hypotheses\[0\].variant: no 'other'"),
    ("endpoint: beam_2.chrf", "endpoint: beam_3.chrf", r"no 'beam_3.chrf'; did you mean 'beam_2.chrf'"),
    (", margin: 5", "", r"hypotheses\[1\].margin: missing"),
    ("minutes: 4", "run: {seed: 3}", r"toy.yaml:10: run.seed: the study sets it for all variants"),
    ("minutes: 4", "data: {path: 'study://decoded/later'}", "it reads no earlier variant 'later'"),
    ("  greedy: {beams: 1,", "  greedy: {beems: 1,", r"toy.yaml:14: unknown key 'search.beems'; did you mean"),
    ("beams: 1, examples: 20", "beams: 1, examples: 0", r"toy.yaml:14: examples: 0 is not"),
    ("beams: [1, 2]", "beams: []", r"toy.yaml: diagnose.beams: \[\] are not different numbers"),
    ("prefixes: [2]", "prefixes: []", r"toy.yaml: diagnose.prefixes: \[\] are not different numbers"),
    (
        "greedy.seq_rep_2",
        "greedy.length_ratio",
        r"hypotheses\[1\].name: non_inferiority: of greedy.length_ratio nei",
    ),
    ("beam_2.chrf, variant", "excess_error_after_5, variant", "no 'excess_error_after_5'; it needs data whose true"),
    (
        "minutes: 4",
        "data: {path: 'study://runs/teacher_forcing'}",
        r"toy.yaml:10: data.path: 'study://runs/.*: expected",
    ),
    ("minutes: 4", "data: {path: 'study://run/teacher_forcing/1,2'}", r"toy.yaml:10: data.path: .*SEED\+SEED"),
    ("minutes: 4", "data: {path: 'study://run/replacement'}", "no earlier variant 'replacement', which is itself"),
    (
        "run: {steps",
        "run: {select: bleu, steps",
        "toy.yaml:6: run.select: the study sets it .*; give the",
    ),
    ("title:", "weights: toyy\ntitle:", "weights: no study 'toyy'; did you mean 'toy'"),
    (
        "base: toy_copy",
        "base: ../recipes/none.yaml",
        r"toy.yaml:3: recipe.base: recipe '../recipes/none.yaml': no such",
    ),
    ("greedy.seq_rep_2", "damage_own_error", r"endpoint: no 'damage_own_error'; did you mean 'damage_own_errors'"),
    ("beam_2.chrf, variant: replacement", "beam_2.chrf, variant: teacher_forcing", "is compared with itself"),
    ("diagnose: {", "diagnose: {quantities: [repetitions], ", "no 'repetitions'; did you mean 'repetition'"),
    ("minutes: 4", "search: {beams: 2}", r"toy.yaml:10: search: it is the same for all variants"),
    ("variants:", "variant:", r"toy.yaml:7: unknown key 'variant'; did you mean 'variants'"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG)
def test_a_fault_of_a_study_is_one_line_with_its_place(tmp_path, old, new, message):
    assert old in FILE
    with pytest.raises(UserError, match=message):
        plan_of(tmp_path, FILE.replace(old, new, 1))


def test_a_study_that_would_measure_nothing_is_refused(tmp_path):
    text = (
        re.sub(r"(?m)^(searches|diagnose|hypotheses|  greedy|  beam_2|  - ).*\n", "", FILE)
        + "diagnose: {examples: 0}\n"
    )
    with pytest.raises(UserError, match=r"toy.yaml: variants.teacher_forcing: nothing would be measured of it"):
        plan_of(tmp_path, text)
    with pytest.raises(UserError, match=r"toy.yaml:10: unknown key 'modle'"):
        plan_of(tmp_path, text.replace("minutes: 4", "modle: {}").replace("{examples: 0}", "{examples: 9}"))


def test_the_base_of_a_study_is_looked_for_in_its_own_folder_first(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: toy_copy\nmodel: {width: 48}\n", encoding="utf-8")
    for base in ("mine", "./mine.yaml", "../" + tmp_path.name + "/mine.yaml"):
        plan = plan_of(tmp_path, FILE.replace("base: toy_copy", f"base: {base}").replace("width: 16, ", ""))
        assert plan.recipes["replacement"].model.width == 48
    # A study of the name of a shipped recipe is not taken for its own base.
    path = tmp_path / "toy_copy.yaml"
    path.write_text(FILE, encoding="utf-8")
    assert read_plan([f"study={path}"]).recipes["replacement"].model.width == 16


TAGGING = """\
title: do transitions help
recipe:
  base: toy_copy
  data: {source: null, path: PATH, source_field: words, target_field: null, max_source: 20}
  vocabulary: {size: 300}
  model: {width: 16, layers: 1, heads: 2}
  heads: {tags: {name: softmax, field: tags, scheme: bio}, topics: {name: zlpr, field: topics}}
  run: {steps: 6, evaluate_every: 3, save_every: 3, tokens: 256}
variants:
  softmax:
  crf: {heads: {tags: {name: crf}}}
seeds: [1]
split: dev
select: tags.entity_f1
hypotheses:
  - {name: difference, endpoint: tags.entity_f1, variant: crf}
  - {name: equivalence, endpoint: topics.precision_at_1, variant: crf, margin: 5}
"""
KINDS = {"red": "B-C", "green": "B-C", "deep": "O", "sea": "B-P", "shore": "I-P", "the": "O"}


def tagging(folder: Path) -> str:
    """Write sentences with tags and topics, and return a study of them."""
    sentences = [[a, b, c] for a in KINDS for b in KINDS for c in KINDS if len({a, b, c}) == 3]
    rows = [
        {"words": words, "tags": [KINDS[word] for word in words], "topics": [word for word in words if "e" in word]}
        for words in sentences
    ]
    (folder / "data").mkdir()
    for split, part in (("train", rows), ("dev", rows[::5])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / "data" / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return TAGGING.replace("PATH", str(folder / "data"))


def test_scores_of_heads_are_endpoints_that_are_known_before_the_runs(tmp_path):
    text = tagging(tmp_path)
    plan = plan_of(tmp_path, text)
    labels = {"topics.micro_f1", "topics.precision_at_1", "topics.precision_at_5"}
    assert plan.scores("crf") == {"tags.entity_f1", "tags.accuracy", *labels}
    # Macro F1 would need sums of each label.
    for wrong, hint in (("tags.entity_f", "; did you mean 'tags.entity_f1'"), ("tags.macro_f1", ""), ("beam.chrf", "")):
        with pytest.raises(UserError, match=rf"hypotheses\[0\].endpoint: no '{wrong}'{hint}"):
            plan_of(tmp_path, text.replace("endpoint: tags.entity_f1", f"endpoint: {wrong}"))
    # A score of a head that only one of the two has cannot be compared.
    with pytest.raises(UserError, match=r"no 'other.accuracy'"):
        plan_of(
            tmp_path,
            text.replace("tags: {name: crf}", "tags: {name: crf}, other: {name: crf, field: tags}").replace(
                "endpoint: tags.entity_f1", "endpoint: other.accuracy"
            ),
        )


@pytest.mark.slow
def test_a_study_of_heads_scores_the_split_without_searches_and_diagnosis(tmp_path, capsys):
    path = write(tmp_path, tagging(tmp_path))
    assert main([f"study={path}", f"folder={tmp_path / 'weights'}"]) == 0, capsys.readouterr()
    for result in stored(tmp_path).values():
        assert {"tags.entity_f1", "tags.accuracy", "topics.micro_f1"} <= result.tables.keys()
        assert not result.texts
        # The scored split is dev here, so the log has the same numbers.
        (dev,) = [row for row in result.dev if row["step"] == result.step]
        for endpoint in result.tables:
            assert result.value(endpoint) == pytest.approx(dev[endpoint])
    record = json.loads((tmp_path / "results" / "toy" / "results.json").read_text(encoding="utf-8"))
    assert [row["endpoint"] for row in record["declared"]] == ["tags.entity_f1", "topics.precision_at_1"]
    assert "tags: F1 of spans" in (tmp_path / "results" / "toy" / "page.html").read_text(encoding="utf-8")
    # There is no test split; that is said before any training.
    assert main([f"study={path}", f"folder={tmp_path / 'others'}", f"results={tmp_path / 'none'}", "split=test"]) == 2
    assert "split: the data have no test examples; give split=dev" in capsys.readouterr().err
    assert not (tmp_path / "others" / "crf-1").exists()


SHIPPED = sorted(STUDIES.glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=[file.stem for file in SHIPPED])
def test_every_shipped_study_can_be_read_and_says_how_long_it_takes(file):
    plan = read_plan([f"study={file}"])
    assert plan.settings.title
    assert set(plan.minutes) == set(plan.variants)
    kept = list((STUDIES / "results" / plan.name).glob("*.json.xz"))
    assert all(path.stat().st_size <= results.MOST_BYTES for path in kept)


def test_the_study_of_the_manual_is_read(tmp_path):
    page = (STUDIES.parent / "README.md").read_text(encoding="utf-8")
    (text,) = (block for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL) if "hypotheses:" in block)
    plan = plan_of(tmp_path, text)
    assert plan.runs[:2] == [("teacher_forcing", 1), ("replacement", 1)]
    assert [row["name"] for row in plan.hypotheses()] == ["difference", "non_inferiority"]


def test_variants_are_the_recipe_with_their_keys_and_what_the_study_fixes(tmp_path):
    plan = plan_of(tmp_path)
    plain, noisy = (plan.recipe(variant, 2) for variant in plan.variants)
    assert (plain.run.seed, plain.run.steps, plain.run.select) == (2, 12, "chrf")
    assert not plain.mitigations
    assert noisy.mitigations[0].rate == 0.3
    assert plain.run.folder == str(tmp_path / "weights" / "teacher_forcing-2")
    assert plan.runs == [("teacher_forcing", 1), ("replacement", 1), ("teacher_forcing", 2), ("replacement", 2)]
    assert plan.seen == ["replace_from_target"]


def test_the_fingerprint_of_a_variant_follows_its_written_keys_alone(tmp_path):
    plan = plan_of(tmp_path)
    same = plan_of(tmp_path, FILE.replace("rate: 0.3", "rate: .30").replace("title: does", "title: Does"))
    other = plan_of(tmp_path, FILE.replace("rate: 0.3", "rate: 0.4"))
    assert plan.fingerprint("replacement") == same.fingerprint("replacement") != other.fingerprint("replacement")
    assert (
        plan.fingerprint("teacher_forcing") == other.fingerprint("teacher_forcing") != plan.fingerprint("replacement")
    )
    # The hypotheses are declared by what they say, not by the results.
    assert plan.hypotheses_hash() == other.hypotheses_hash()
    assert plan.hypotheses_hash() != plan_of(tmp_path, FILE.replace("margin: 5", "margin: 6")).hypotheses_hash()


def test_references_to_other_runs_are_part_of_the_fingerprint_and_become_paths(tmp_path):
    text = FILE.replace(
        "seeds:",
        "  student: {mitigations: [{name: gold, reward: sum, reference: 'study://run/teacher_forcing'}]}\nseeds:",
    )
    plan = plan_of(tmp_path, text)
    (other,) = plan.needs("student", 2)
    assert (other.kind, other.variant, other.seeds) == ("run", "teacher_forcing", (2,))
    recipe = plan.recipe("student", 2, {other: ["somewhere"]})
    assert recipe.mitigations[0].reference == "somewhere"
    changed = plan_of(
        tmp_path, text.replace("teacher_forcing: {minutes: 2}", "teacher_forcing: {objective: {label_smoothing: 0.1}}")
    )
    assert changed.fingerprint("student") != plan.fingerprint("student")


def test_a_table_of_sums_is_kept_to_a_hundredth_of_its_spread():
    random = np.random.default_rng(0)
    rows = np.stack([random.integers(0, 9, 50), random.normal(3, 0.01, 50), np.zeros(50), np.full(50, 0.25)], axis=1)
    table = Table("a", "nats", "lower", rows.astype(float), 0)
    again = Table.of(json.loads(json.dumps(table.plain())))
    assert (again.title, again.unit, again.better, again.distances) == ("a", "nats", "lower", 0)
    assert (again.rows[:, 0] == rows[:, 0]).all()
    assert np.abs(again.rows[:, 1] - rows[:, 1]).max() <= 0.01 * rows[:, 1].std()
    assert again.rows[:, 2:] == pytest.approx(rows[:, 2:], abs=0.0025)


def test_time_is_told_by_what_was_measured_and_declared(tmp_path):
    plan = plan_of(tmp_path)
    nothing = Progress({}, plan.runs, {})
    assert [minutes(plan, nothing, variant) for variant in plan.variants] == [2, 4]
    assert remaining(plan, nothing, 2) == "about 12.0 minutes of CPU time, 6.0 minutes with 2 at a time"
    result = replace(
        fake_result(plan, "teacher_forcing", 1), cost={"train_cpu": 150, "measure_cpu": 90, "train_wall": 9}
    )
    measured = Progress({("teacher_forcing", 1): result}, plan.runs[1:], {})
    # Twice as long as declared here, so the other variant will be, too.
    assert [minutes(plan, measured, variant) for variant in plan.variants] == [4, 8]
    unknown = plan_of(tmp_path, re.sub(r"minutes: \d", "", FILE).replace("teacher_forcing: {}", "teacher_forcing:"))
    assert minutes(unknown, nothing, "replacement") is None
    partly = plan_of(tmp_path, FILE.replace("    minutes: 4\n", ""))
    told = remaining(partly, nothing, 1)
    assert told.startswith("about 4.0 minutes of CPU time, 4.0 minutes with 1 at a time, besides replacement, whose")


def fake_result(plan, variant, seed, dev=(), **tables):
    return results.Result(
        variant, seed, plan.fingerprint(variant), plan.measured_hash(variant), plan.hypotheses_hash(), "data", "tested",
        "0", {"processor": "p", "precision": "fp32"}, {"train_cpu": 60.0}, 12, 12, list(dev), {}, tables,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "converged"),
    [([3, 2, 1.995], True), ([3, 2, 1.98], False), ([2, 3], True), ([2], False), ([], False)],
)
def test_a_run_has_converged_if_its_last_evaluation_gains_little(tmp_path, losses, converged):
    dev = [{"step": step, "loss": loss} for step, loss in enumerate(losses)]
    assert fake_result(plan_of(tmp_path), "replacement", 1, dev).converged is converged


def test_declared_differences_are_corrected_within_their_family_even_for_those_without_results(tmp_path):
    text = FILE.replace("seeds: [1, 2]", "seeds: [1, 2, 3, 4, 5]\nscores: [chrf, seq_rep_2]")
    plan, random = plan_of(tmp_path, text), np.random.default_rng(0)

    def result(variant, seed, gain):
        values = random.normal(gain, 0.1, 30) + random.normal(0, 0.01)
        rows = np.stack([values, np.ones(30)], axis=1)
        return fake_result(plan, variant, seed, clean_cost=Table("cost", "nats", "lower", rows))

    runs = [
        result(variant, seed, gain)
        for variant, gain in (("teacher_forcing", 2), ("replacement", 1))
        for seed in range(1, 6)
    ]
    settings = replace(
        plan.settings,
        hypotheses=[replace(plan.settings.hypotheses[0], endpoint=name) for name in ("clean_cost", "absent")],
    )
    comparisons = Comparisons(replace(plan, settings=settings), runs)
    (row,) = comparisons.declared
    expected = mean(runs[5].tables["clean_cost"].rows.sum(axis=0)) - 2
    assert row.difference.estimate == pytest.approx(float(expected), abs=0.1)
    assert row.adjusted == pytest.approx(2 * row.p)
    assert row.p < 0.001
    reasons = "results of replacement without it and results of teacher_forcing without it"
    lines = remarks(comparisons)
    assert lines[-1] == f"declared, but not tested: absent, replacement - teacher_forcing: {reasons}"
    assert lines[-2].startswith("begun before the hypotheses were as they are now")
    exploring = Comparisons(replace(plan, settings=replace(settings, exploratory=True)), runs)
    assert [row.p for row in exploring.declared] == [None]


def test_a_declared_difference_from_another_baseline_has_a_plot_of_its_own_before_the_others(tmp_path):
    third = "  third: {minutes: 1, run: {steps: 6}}\nseeds:"
    declared = "{name: difference, endpoint: clean_cost, variant: replacement, baseline: third}"
    other = "{name: difference, endpoint: clean_cost, variant: third, family: second}"
    text = re.sub(r"(?m)^  - .*\n", "", FILE).replace("seeds:", third) + f"  - {declared}\n  - {other}\n"
    text = text.replace("[1, 2]\nsearches", "[1, 2, 3, 4, 5]\nsearches")
    plan, random = plan_of(tmp_path, text), np.random.default_rng(0)

    def result(variant, seed):
        values = random.normal(list(plan.variants).index(variant), 0.1, 30)
        table = Table("cost", "nats", "lower", np.stack([values, np.ones(30)], axis=1))
        return fake_result(plan, variant, seed, clean_cost=table)

    comparisons = Comparisons(plan, [result(*run) for run in plan.runs])
    rows = [(row.variant, row.baseline, row.p is None) for row in comparisons.rows("clean_cost")]
    assert rows == [
        ("replacement", "third", False),
        ("third", "teacher_forcing", False),
        ("replacement", "teacher_forcing", True),
    ]
    # Declared differences are in the record once.
    assert [row["variant"] for row in record(comparisons, [])["others"]] == ["replacement"]
    plots = re.findall(r">minus (\w+)<", page(comparisons, []))
    assert plots == ["third", "teacher_forcing"]
    write_page(plan, comparisons.results, lambda _: None)
    picture = (plan.output / "forest.svg").read_text(encoding="utf-8")
    assert re.findall(r">minus (\w+)<", picture) == plots
    assert re.search(r"<desc [^>]*>cost, minus third: replacement ", picture)
    assert picture.count("not tested") == 1  # in the key alone: the picture shows tests


@pytest.mark.slow
def test_a_study_trains_scores_and_compares_all_its_runs(finished):
    files = stored(finished)
    assert list(files) == [
        f"{variant}-{seed}.json.xz" for variant in ("replacement", "teacher_forcing") for seed in (1, 2)
    ]
    result = files["replacement-2.json.xz"]
    assert (result.steps, result.seed, [row["step"] for row in result.dev]) == (12, 2, [4, 8, 12])
    best = max(result.dev, key=lambda row: (row["chrf"], row["step"]))
    assert result.step == best["step"]
    # The scores are those of the hypotheses that are kept.
    plan = plan_of(finished)
    tests = load(plan.recipe("replacement", 2).data).test[:20]
    scores = score(result.texts["beam_2"], [example.target for example in tests]).values
    assert result.value("beam_2.chrf") == pytest.approx(scores["chrf"])
    assert result.value("beam_2.bleu") == pytest.approx(scores["bleu"])
    assert result.cost["train_cpu"] > 0
    assert result.cost["measure_cpu"] > 0
    weights = next((finished / "weights" / "replacement-2" / "checkpoints").glob("step-*/weights.*"))
    # Weights and two moments of them are of float32, and a process that has loaded torch holds some 200 MB.
    assert result.cost["parameters"] == pytest.approx(weights.stat().st_size / 4, rel=0.2)
    assert result.cost["optimizer_bytes"] == pytest.approx(8 * result.cost["parameters"], rel=0.3)
    assert 1e8 < result.cost["peak_bytes"] < 1e11
    assert 0 < result.cost["step_seconds"] < result.cost["train_wall"]
    assert {"damage_held_out", "damage_own_errors", "clean_cost"} <= result.tables.keys()
    assert all(path.stat().st_size < results.MOST_BYTES for path in (finished / "results" / "toy").glob("*.xz"))


@pytest.mark.slow
def test_a_diagnosis_of_the_run_has_the_same_numbers(finished, tmp_path):
    from s2s.diagnose.__main__ import main as diagnose

    folders = [finished / "weights" / f"{variant}-1" for variant in ("teacher_forcing", "replacement")]
    arguments = [
        "data=recipe",
        "examples=15",
        "beams=[1,2]",
        "search_examples=5",
        "prefixes=[2]",
        "distances=3",
        "resamples=10",
    ]
    assert diagnose([f"run={','.join(map(str, folders))}", f"output={tmp_path}", *arguments]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    undirected = {name for name, row in report["headlines"].items() if row["better"] == "neither"}
    assert undirected == {*UNDIRECTED}.intersection(report["headlines"])
    assert undirected
    for run, variant in zip(report["runs"], ("teacher_forcing", "replacement"), strict=True):
        result = stored(finished)[f"{variant}-1.json.xz"]
        for name in ("damage_held_out", "damage_own_errors", "clean_cost", "beam_curse"):
            assert result.value(name) == pytest.approx(run["headlines"][name]["estimate"], abs=0.01), name


@pytest.mark.slow
def test_results_alone_make_the_page_without_data_or_weights(finished, tmp_path, capsys):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copytree(finished / "results", folder / "results")
    # Data that are nowhere: nothing may read them.
    path = write(folder, FILE)
    assert main([f"study={path}", f"folder={folder / 'weights'}"]) == 0
    assert "4 of 4 runs have results" in capsys.readouterr().out
    assert not (folder / "weights").exists()
    record = json.loads((folder / "results" / "toy" / "results.json").read_text(encoding="utf-8"))
    assert [row["endpoint"] for row in record["declared"]] == ["beam_2.chrf", "greedy.seq_rep_2"]
    assert record["declared"][0]["p"] is None
    assert record["remarks"][0].startswith("exploratory: too few seeds for a p (at least 5): 2 of teacher_forcing")
    page = (folder / "results" / "toy" / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 4
    assert "does noise help copying" in page
    assert "<th>parameters</th><th>MB at most</th>" in page
    assert record["variants"]["replacement"]["cost"]["parameters"] > 1000
    rows = (folder / "results" / "toy" / "rows.md").read_text(encoding="utf-8")
    assert rows.startswith("| toy, 2 seeds | CPU minutes | beam_2.chrf |")


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-m",
        "s2s.study",
        f"study={folder / 'toy.yaml'}",
        f"folder={folder / 'weights'}",
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", env=environment
    )


def wait_for(condition, seconds=120.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


LONG = FILE.replace("steps: 12", "steps: 400").replace(
    "evaluate_every: 4, save_every: 4", "evaluate_every: 400, save_every: 400"
)


@pytest.mark.slow
@pytest.mark.processes
def test_a_killed_study_leaves_no_process_and_continues_with_the_step_it_had_reached(tmp_path):
    write(tmp_path, LONG.replace("seeds: [1, 2]", "seeds: [1]"))
    study = start(tmp_path)
    log = tmp_path / "weights" / "teacher_forcing-1" / "log.jsonl"
    wait_for(lambda: log.is_file() and log.read_text(encoding="utf-8").count("\n") > 20)
    study.kill()
    study.communicate()
    # The run sees that its study is gone, saves a checkpoint and ends.
    checkpoints = tmp_path / "weights" / "teacher_forcing-1" / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("*/weights.safetensors")) if checkpoints.is_dir() else False)
    reached = log.read_text(encoding="utf-8").count("\n")
    study = start(tmp_path)
    output, _ = study.communicate(timeout=300)
    assert study.returncode == 0, output
    assert "2 of 2 runs" not in output.splitlines()[1]
    text = (tmp_path / "weights" / "teacher_forcing-1.log").read_text(encoding="utf-8")
    assert "stopped after step" in text
    assert reached > 20
    assert stored(tmp_path)["teacher_forcing-1.json.xz"].steps == 400


@pytest.mark.slow
@pytest.mark.processes
def test_a_budget_stops_the_study_whole_and_says_what_is_left(tmp_path):
    write(tmp_path, LONG.replace("steps: 400", "steps: 100000"))
    study = start(tmp_path, "budget=0.5", "workers=1")
    output, _ = study.communicate(timeout=300)
    assert study.returncode == 0, output
    assert "the budget is used up" in output
    assert "of 4 runs, 4 runs are left" in output
    assert any((tmp_path / "weights" / "teacher_forcing-1" / "checkpoints").glob("*/weights.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing",
    [
        "data: {source: null, path: gone/rows, source_field: a, target_field: b}",
        "model: {backbone: causal_lm, pretrained: ./gone}",
    ],
)
def test_without_data_or_checkpoint_no_run_is_started_and_the_page_shows_what_there_is(
    finished, tmp_path, capsys, monkeypatch, missing
):
    monkeypatch.delenv("S2S_DATA", raising=False)
    # One variant is changed, so that the other's results still are there.
    text = FILE.replace("  replacement:\n", f"  replacement:\n    {missing}\n")
    (tmp_path / "kept").mkdir()
    for seed in (1, 2):
        shutil.copy(finished / "results" / "toy" / f"teacher_forcing-{seed}.json.xz", tmp_path / "kept")
    keys = [f"study={write(tmp_path, text)}", f"folder={tmp_path / 'weights'}", f"results={tmp_path / 'kept'}"]
    assert main([*keys, f"output={tmp_path / 'page'}"]) == 2
    output = capsys.readouterr()
    assert "started" not in output.out + output.err
    assert re.search(r"replacement: .*gone.*; 2 runs are left", output.out + output.err)
    assert "teacher_forcing" in (tmp_path / "page" / "rows.md").read_text(encoding="utf-8")


def test_runs_that_failed_for_one_reason_share_it():
    failed = {("a", 1): "no room", ("b", 1): "killed", ("a", 2): "no room"}
    assert list(_failures(failed)) == ["a-1, a-2: no room", "b-1: killed"]


@pytest.mark.slow
@pytest.mark.processes
def test_a_signal_stops_the_study_and_a_failed_run_does_not_stop_the_others(tmp_path):
    write(tmp_path, LONG.replace("steps: 400", "steps: 100000"))
    study = start(tmp_path)
    log = tmp_path / "weights" / "teacher_forcing-1" / "log.jsonl"
    wait_for(log.is_file)
    study.send_signal(signal.SIGTERM)
    study.communicate(timeout=60)
    assert study.returncode == 143
    text = FILE.replace("seeds: [1, 2]", "seeds: [1]").replace(
        "name: random_replacement, rate: 0.3", "name: brio, path: none.jsonl"
    )
    write(tmp_path, text)
    study = start(tmp_path, f"folder={tmp_path / 'others'}")
    output, _ = study.communicate(timeout=300)
    assert study.returncode == 2
    assert "runs that failed, 1: replacement-1: " in output
    assert list(stored(tmp_path)) == ["teacher_forcing-1.json.xz"]


def test_runs_with_results_of_another_recipe_are_left_to_do(finished_results, tmp_path):
    plan = plan_of(tmp_path, FILE.replace("rate: 0.3", "rate: 0.4"), f"results={finished_results}")
    assert progress(plan).left == [("replacement", 1), ("replacement", 2)]
    with pytest.raises(UserError, match=r"replacement-1.json.xz, replacement-2.json.xz: results of a recipe that has"):
        results.check_replaced(plan, plan.runs)
    overrides = f"results={finished_results}", "only=[teacher_forcing]"
    assert not progress(plan_of(tmp_path, FILE.replace("rate: 0.3", "rate: 0.4"), *overrides)).left
    with pytest.raises(UserError, match="only: no variant 'other'"):
        plan_of(tmp_path, FILE, "only=[other]")


def test_another_measurement_is_made_again_where_the_weights_are_here_and_told_where_not(finished_results, tmp_path):
    plan = plan_of(tmp_path, FILE.replace("beam_2: {beams: 2", "beam_2: {beams: 3"), f"results={finished_results}")
    kept = progress(plan)
    assert not kept.left
    lines = remarks(Comparisons(plan, list(kept.finished.values())))
    assert any("otherwise than the study says now: replacement, teacher_forcing" in line for line in lines)
    plan.run_folder("replacement", 2).mkdir(parents=True)
    plan.trained("replacement", 2).touch()
    assert progress(plan).left == [("replacement", 2)]


def test_weights_of_a_variant_that_has_changed_are_refused_and_nobody_reads_them(tmp_path, capsys):
    plan = plan_of(tmp_path)
    for seed in (1, 2):
        plan.run_folder("replacement", seed).mkdir(parents=True)
        plan.trained("replacement", seed).touch()
        plan.begun("replacement", seed).write_text(plan.fingerprint("replacement"), encoding="utf-8")
    assert plan.is_trained("replacement", 1)
    other = plan_of(tmp_path, FILE.replace("rate: 0.3", "rate: 0.4"))
    assert not other.is_trained("replacement", 1)
    assert main([f"study={other.file}", f"folder={other.folder}"]) == 2
    assert "replacement-1, replacement-2: runs of a recipe that has changed" in capsys.readouterr().err
    assert not other.run_folder("teacher_forcing", 1).exists()


@pytest.fixture
def finished_results(tmp_path):
    folder, plan = tmp_path / "kept", plan_of(tmp_path, FILE, f"results={tmp_path / 'kept'}")
    for variant, seed in plan.runs:
        rows = np.random.default_rng(seed).normal(3, 1, (15, 2))
        table = Table("cost", "nats", "lower", rows)
        results.write(results.path_of(plan, variant, seed), fake_result(plan, variant, seed, clean_cost=table))
    return folder


def test_the_file_of_another_run_is_refused_by_name(finished_results, tmp_path):
    shutil.copy(finished_results / "replacement-1.json.xz", finished_results / "replacement-2.json.xz")
    with pytest.raises(UserError, match=r"replacement-2.json.xz: .*it is of replacement, seed 1"):
        progress(plan_of(tmp_path, FILE, f"results={finished_results}"))


@pytest.mark.parametrize("key", ["results", "output", "folder"])
def test_a_place_that_cannot_be_written_is_refused_before_a_run_starts(tmp_path, capsys, key):
    (tmp_path / "file").touch()
    path = write(tmp_path)
    arguments = [
        f"folder={tmp_path / 'weights'}",
        f"output={tmp_path / 'page'}",
        f"{key}={tmp_path / 'file' / 'inside'}",
    ]
    assert main([f"study={path}", *arguments]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert not (tmp_path / "weights").exists()


def test_the_names_of_quantities_are_those_that_can_be_measured():
    damages = ("damage_held_out", "damage_own_errors", "damage_seen")
    assert {*KEPT, *OTHERS} == {*damages, *results.QUANTITIES}


def test_results_of_a_recipe_that_has_changed_are_not_replaced(finished_results, tmp_path, capsys):
    path = write(tmp_path, FILE.replace("rate: 0.3", "rate: 0.4"))
    before = {file: file.read_bytes() for file in finished_results.iterdir()}
    keys = [f"study={path}", f"folder={tmp_path / 'weights'}", f"results={finished_results}"]
    for arguments in (keys, [*keys, "--dry-run"]):
        assert main(arguments) == 2
        assert "replacement-1.json.xz, replacement-2.json.xz: results of a recipe that has" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize(
    "change",
    [
        {"dev": None},
        {"cost": {"train_cpu": "x"}},
        {"hardware": {}},
        {"seed": "1"},
        {"step": None},
        {"tables": {}},
        {"dev": [{"loss": "low"}]},
        {"texts": []},
    ],
)
def test_results_with_values_of_another_kind_are_refused_by_name(finished_results, tmp_path, change):
    path = finished_results / "replacement-1.json.xz"
    values = json.loads(lzma.decompress(path.read_bytes()))
    path.write_bytes(lzma.compress(json.dumps({**values, **change}).encode()))
    with pytest.raises(UserError, match=r"replacement-1.json.xz: no results of a study's run"):
        progress(plan_of(tmp_path, FILE, f"results={finished_results}"))


def test_a_table_that_is_wrong_is_refused_when_it_is_read_or_written(finished_results, tmp_path):
    path = finished_results / "replacement-1.json.xz"
    values = json.loads(lzma.decompress(path.read_bytes()))
    for key, change in (("better", "up"), ("columns", [[1, 2], [1]])):
        table = {**values["tables"]["clean_cost"], key: change}
        path.write_bytes(lzma.compress(json.dumps({**values, "tables": {"clean_cost": table}}).encode()))
        with pytest.raises(UserError, match=r"replacement-1.json.xz: .*clean_cost"):
            results.read(path)
    result = fake_result(plan_of(tmp_path), "replacement", 1, g=Table("", "", "lower", np.array([[1.0], [np.nan]])))
    with pytest.raises(UserError, match=r"replacement-1.json.xz: g: sentence 2 has a sum that is not finite"):
        results.write(path, result)


def test_a_column_of_nearly_equal_numbers_is_kept():
    rows = np.array([0.3] * 299 + [0.1 * 3])[:, None]
    assert Table.of(json.loads(json.dumps(Table("", "", "lower", rows).plain()))).rows == pytest.approx(rows)


def comparisons_of(tmp_path, shapes, hypotheses=(), **changes):
    """Return the comparisons of runs whose clean cost has these numbers of sentences, by variant a list over seeds."""
    plan, random = plan_of(tmp_path), np.random.default_rng(0)
    runs = [
        replace(
            fake_result(
                plan, variant, seed, clean_cost=Table("cost", "nats", "lower", random.normal(2, 0.1, (count, 2)) + 1)
            ),
            **(changes if variant == "replacement" else {}),
        )
        for variant, counts in shapes.items()
        for seed, count in enumerate(counts, start=1)
    ]
    rows = [replace(plan.settings.hypotheses[0], endpoint=name) for name in hypotheses]
    return Comparisons(replace(plan, settings=replace(plan.settings, hypotheses=rows)), runs)


@pytest.mark.parametrize(
    ("others", "changes"), [([100] * 5, {"tested": "others"}), ([95] * 5, {}), ([95] * 5, {"tested": "others"})]
)
def test_runs_on_other_sentences_have_a_difference_without_interval_and_p(tmp_path, others, changes):
    comparisons = comparisons_of(
        tmp_path, {"teacher_forcing": [100] * 5, "replacement": others}, ["clean_cost"], **changes
    )
    (row,) = comparisons.declared
    assert np.isfinite(row.difference.estimate)
    assert (row.p, row.adjusted, row.difference.low, row.difference.detectable) == (None, None, None, None)
    assert "replacement - teacher_forcing" in page(comparisons, remarks(comparisons))


def test_a_variant_whose_seeds_were_measured_unlike_lacks_the_endpoint_and_the_page_says_so(tmp_path):
    comparisons = comparisons_of(tmp_path, {"teacher_forcing": [30] * 5, "replacement": [30, 20]}, ["clean_cost"])
    lines = remarks(comparisons)
    assert "the runs of replacement were not measured alike, so it has no clean_cost" in lines
    assert lines[0] == "exploratory: too few seeds for a p (at least 5): 2 of replacement"
    assert lines[-1] == (
        "declared, but not tested: clean_cost, replacement - teacher_forcing: results of replacement without it"
    )
    assert not comparisons.declared
    assert record(comparisons, lines)["variants"]["teacher_forcing"]["values"]["clean_cost"]["seeds"]
    assert "not measured alike" in page(comparisons, lines)


def test_a_hypothesis_on_a_variant_without_results_is_named(tmp_path):
    lines = remarks(comparisons_of(tmp_path, {"teacher_forcing": [30] * 5}, ["clean_cost"]))
    assert lines[-1] == (
        "declared, but not tested: clean_cost, replacement - teacher_forcing: no results of replacement"
    )


def test_an_endpoint_that_the_baseline_lacks_is_compared_among_those_that_have_it(tmp_path):
    text = FILE.replace("seeds:", "  more: {heads: {tags: {name: softmax, labels: copy_tags}}}\nseeds:").replace(
        "minutes: 4", "heads: {tags: {name: crf, labels: copy_tags}}"
    )
    text += "  - {name: difference, endpoint: tags.entity_f1, variant: more, baseline: replacement}\n"
    plan, random = plan_of(tmp_path, text), np.random.default_rng(0)
    shared, own = (Table("t", "0..100", "higher", random.integers(1, 9, (40, 3)).astype(float)) for _ in range(2))
    runs = [
        fake_result(plan, variant, seed, **{"beam_2.chrf": shared}, **({"tags.entity_f1": own} if heads else {}))
        for variant, heads in (("teacher_forcing", False), ("replacement", True), ("more", True))
        for seed in range(1, 6)
    ]
    comparisons = Comparisons(plan, runs)
    assert [row.endpoint for row in comparisons.declared if row.variant == "more"] == ["tags.entity_f1"]
    assert not comparisons.others("tags.entity_f1")
    assert comparisons.values("teacher_forcing", "tags.entity_f1") == []
    values = record(comparisons, [])["variants"]
    assert "tags.entity_f1" not in values["teacher_forcing"]["values"]
    assert len(values["more"]["values"]["tags.entity_f1"]["seeds"]) == 5
    assert "tags" in page(comparisons, [])


def test_a_curve_over_beams_has_only_runs_of_the_present_widths(tmp_path):
    plan = plan_of(tmp_path)
    old = Table("chrF lost", "0..100", "lower", np.ones((10, 4)))
    for widths, drawn in (([1, 2, 4], False), ([], False), ([1, 2], True)):
        table = old if widths != [1, 2] else replace(old, rows=np.ones((10, 3)))
        runs = [replace(fake_result(plan, "replacement", seed, beam_curse=table), beams=widths) for seed in (1, 2)]
        assert ("Quality by beam width" in page(Comparisons(plan, runs), [])) is drawn


def test_what_is_read_is_trained_first_however_long_the_chain(tmp_path):
    taught = """\
  second: {mitigations: [{name: distillation, teacher: study://run/teacher_forcing/9}]}
  third: {mitigations: [{name: distillation, teacher: study://run/second/8}]}
seeds:"""
    plan = plan_of(tmp_path, FILE.replace("seeds:", taught, 1), "only=[third]", "seeds=[1]")
    assert progress(plan).left == [("third", 1), ("second", 8), ("teacher_forcing", 9)]
    plan.run_folder("second", 8).mkdir(parents=True)
    plan.trained("second", 8).touch()
    assert progress(plan).left == [("third", 1)]
    # The mark alone is no run.
    plan.run_folder("second", 8).rmdir()
    assert progress(plan).left == [("third", 1), ("second", 8), ("teacher_forcing", 9)]


@pytest.mark.parametrize(
    ("log", "code", "reason"),
    [
        ("error: earlier\n|step 1\nerror: loss nan, its batch: " + "7, " * 500 + "\n", 2, "loss nan, its batch: 7, "),
        ("error: earlier\n|step 3\n", -1, "ended by SIGHUP"),
        ("|Traceback\nValueError: no\n", 1, "ValueError: no"),
        ("error: earlier\n|", 3, "exit code 3"),
        ("|results of 4 KB\n", 0, "the study's file has changed since the command began"),
        ("|", -9, "killed; was there too little memory?"),
    ],
)
def test_the_reason_of_a_failure_is_what_this_process_wrote(tmp_path, log, code, reason):
    earlier, _, now = log.partition("|")
    (tmp_path / "log").write_text(earlier + now, encoding="utf-8")
    process = Process("a", 1, None, 0, tmp_path / "log", len(earlier))
    line = _reason(process, code)
    assert line.startswith(reason)
    assert len(line) < 420


def test_the_clock_counts_phases_and_survives_a_damaged_file(tmp_path, capsys):
    path = tmp_path / "a.time.json"
    clock = Clock(path)
    assert clock.save() == {}
    clock.enter("train")
    sum(range(2_000_000))
    clock.enter(None)
    trained = clock.save()
    sum(range(2_000_000))
    assert clock.save() == trained
    assert trained["train_cpu"] > 0
    again = Clock(path)
    assert again.save() == trained
    path.write_text('{"train_cpu": "x"}', encoding="utf-8")
    assert Clock(path).save() == {}
    assert "a.time.json: damaged" in capsys.readouterr().out


def test_a_damaged_file_of_results_is_refused_by_name(finished_results, tmp_path):
    path = finished_results / "replacement-1.json.xz"
    path.write_bytes(path.read_bytes()[:20])
    plan = plan_of(tmp_path, FILE, f"results={finished_results}")
    with pytest.raises(UserError, match=r"replacement-1.json.xz: no results of a study's run"):
        progress(plan)


@pytest.mark.slow
def test_runs_read_other_runs_and_what_they_decode_for_train(tmp_path):
    taught = """\
  taught: {data: {targets: 'study://decoded/teacher_forcing/3+4', on_error: skip}}
  student: {mitigations: [{name: distillation, teacher: study://run/teacher_forcing/3+4, on_policy: 0.5}]}
seeds: [1]
diagnose: {examples: 0}
"""
    text = re.sub(r"(?m)^(diagnose|hypotheses|seeds|  - ).*\n", "", FILE).replace("searches:", f"{taught}searches:")
    write(tmp_path, text)
    assert main([f"study={tmp_path / 'toy.yaml'}", f"folder={tmp_path / 'weights'}"]) == 0
    files = stored(tmp_path)
    # The teachers are runs of the study, too, although their seeds are none of the comparison's.
    names = {f"teacher_forcing-{seed}.json.xz" for seed in (1, 3, 4)}
    assert set(files) == names | {f"{variant}-1.json.xz" for variant in ("replacement", "taught", "student")}
    decoded = (tmp_path / "weights" / "decoded-teacher_forcing-3-4.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(decoded) == 100
    assert files["taught-1.json.xz"].data != files["student-1.json.xz"].data == files["teacher_forcing-1.json.xz"].data
    # Where the weights of teachers are lost they are trained again, and what was measured of them stays. What they
    # decoded is kept, but not where it is of other teachers.
    file = tmp_path / "weights" / "decoded-teacher_forcing-3-4.jsonl"
    made = file.with_suffix(".json")
    kept = {path: path.read_bytes() for path in (file, made)}
    shutil.rmtree(tmp_path / "weights")
    file.parent.mkdir()
    file.write_text("old\n", encoding="utf-8")
    made.write_text(json.dumps({**json.loads(kept[made]), "teacher": "another"}), encoding="utf-8")
    folder = tmp_path / "results" / "toy"
    for name in ("student", "taught"):
        (folder / f"{name}-1.json.xz").unlink()
    before = {name: (folder / name).read_bytes() for name in names}
    assert main([f"study={tmp_path / 'toy.yaml'}", f"folder={tmp_path / 'weights'}"]) == 0
    assert (tmp_path / "weights" / "teacher_forcing-3.trained").exists()
    assert not (tmp_path / "weights" / "teacher_forcing-1.trained").exists()
    assert {name: (folder / name).read_bytes() for name in names} == before
    assert {"student-1.json.xz", "taught-1.json.xz"} <= stored(tmp_path).keys()
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.processes
def test_a_study_that_waited_for_another_one_does_nothing_again(finished, tmp_path):
    write(tmp_path)
    (tmp_path / "weights").mkdir()
    with locked(tmp_path / "weights" / ".lock", lambda: None):
        study = start(tmp_path)
        while "waiting until it ends" not in study.stdout.readline():
            assert study.poll() is None
        shutil.copytree(finished / "results", tmp_path / "results", dirs_exist_ok=True)
    output, _ = study.communicate(timeout=120)
    assert study.returncode == 0, output
    assert "started" not in output
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == [".lock"]


@pytest.mark.slow
@pytest.mark.processes
def test_a_run_that_somebody_kills_has_failed_and_is_not_started_again(tmp_path):
    write(tmp_path, LONG.replace("steps: 400", "steps: 100000").replace("seeds: [1, 2]", "seeds: [1]"))
    study = start(tmp_path)
    log = tmp_path / "weights" / "teacher_forcing-1" / "log.jsonl"
    wait_for(log.is_file)
    for process in psutil.Process(study.pid).children():
        process.kill()
    wait_for((tmp_path / "weights" / "replacement-1" / "log.jsonl").is_file)
    for process in psutil.Process(study.pid).children():
        process.kill()
    output, _ = study.communicate(timeout=60)
    assert study.returncode == 2
    assert "runs that failed, 2: teacher_forcing-1, replacement-1: killed; was there too little memory?" in output
