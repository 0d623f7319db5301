"""The diagnosis as a whole: one command from runs to a record, a table of tokens and a page."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet
import pytest
from trained import trained

from s2s import Recipe, fit
from s2s.data import Example
from s2s.data.synthetic import Transduction
from s2s.diagnose import cache
from s2s.diagnose.__main__ import diagnose, main, show
from s2s.diagnose.oracle import distributions
from s2s.diagnose.passes import PASSES, measure, no_bar
from s2s.diagnose.record import details, quantities
from s2s.diagnose.settings import DiagnosisSettings
from s2s.diagnose.subjects import choose, prepare
from s2s.errors import UserError

pytestmark = pytest.mark.slow

SMALL = {
    "examples": 30,
    "search_examples": 10,
    "beams": [1, 2, 4],
    "resamples": 100,
    "prefixes": [2, 5],
    "data": "recipe",
}
CORRUPTIONS = [
    "replace_from_target",
    "replace_from_vocabulary",
    "swap",
    "drop",
    "duplicate",
    "distract",
    "own_errors",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    noise = "mitigations=[{name: swap_noise, rate: 0.3}]"
    for name, overrides in {"plain_0": (), "plain_1": ("run.seed=1",), "swap_0": (noise,)}.items():
        trained(folder / name, *overrides)
    return folder


@pytest.fixture(scope="module")
def record(runs):
    folders = ",".join(str(runs / name) for name in ("plain_0", "swap_0", "plain_1"))
    return diagnose(DiagnosisSettings(run=folders, output=str(runs / "report"), **SMALL))


def test_the_record_has_every_measure_and_the_file_is_the_record(runs, record):
    assert json.loads((runs / "report" / "report.json").read_text(encoding="utf-8")) == record
    for run in record["runs"]:
        assert {"gap", "recovery", "search", "calibration", "margin", "mismatch", "headlines"} <= run.keys()
        assert list(run["recovery"]) == CORRUPTIONS
        assert [point["beams"] for point in run["search"]] == [1, 2, 4]
        assert run["search"][0]["su_gap"] in (0, None)
    assert record["data"]["report"] == ["30 of 100 examples, drawn with seed 0"]
    assert "s2s-" in record["signature"]
    assert "chrF2|" in record["signature"]


def test_runs_that_differ_in_their_seed_are_one_method(record):
    assert [(method["name"], method["runs"]) for method in record["methods"]] == [
        ("teacher_forcing", [0, 2]),
        ("swap_noise", [1]),
    ]
    assert {row["method"] for row in record["comparisons"]} == {"swap_noise"}
    for method in record["methods"]:
        for key, row in method["headlines"].items():
            values = [record["runs"][run]["headlines"][key]["estimate"] for run in method["runs"]]
            assert row["values"] == values
            if None not in values:
                assert row["estimate"] == pytest.approx(np.mean(values))


def all_of(record, *keys):
    """Every value under one of the keys, anywhere in a record."""
    if isinstance(record, list):
        return [value for item in record for value in all_of(item, *keys)]
    if not isinstance(record, dict):
        return []
    values = [value for key, value in record.items() if key in keys and not isinstance(value, dict | list)]
    return [*values, *(value for item in record.values() for value in all_of(item, *keys))]


@pytest.mark.parametrize("sentences", [1, 2, 9])
def test_of_too_few_sentences_nothing_is_found_and_nothing_has_an_interval(runs, sentences, capsys):
    folders, small = ",".join(str(runs / name) for name in ("plain_0", "swap_0")), {**SMALL, "search_examples": 9}
    settings = DiagnosisSettings(run=folders, output=str(runs / f"few_{sentences}"), **small | {"examples": sentences})
    results = diagnose(settings)
    assert set(all_of(results, "low", "high", "p", "p_randomisation", "p_holm")) == {None}
    assert results["findings"]["found"] == []
    assert results["findings"]["not_found"] == []
    (note,) = [note for note in results["findings"]["notes"] if "too few for an interval (at least 10)" in note]
    assert note.startswith(f"{sentences} sentence")
    show(results, settings)
    assert capsys.readouterr().out.splitlines()[2] == note.partition(":")[0]
    damage = results["methods"][0]["headlines"]["clean_cost"]
    assert damage["estimate"] is not None
    for row in results["comparisons"]:
        first, second = (results["methods"][number]["headlines"][row["headline"]]["estimate"] for number in (0, 1))
        if None not in (first, second):
            assert row["difference"] == pytest.approx(second - first)
    page = (runs / f"few_{sentences}" / "report.html").read_text(encoding="utf-8")
    assert "none: fewer than 10 sentences" in page
    assert ">nan<" not in page.lower()
    assert all(run["margin"]["first_doubt"] is None for run in results["runs"])


def test_enough_sentences_have_intervals(record):
    for name in ("clean_cost", "accuracy_forced", "damage_held_out", "eb_slope"):
        for method in record["methods"]:
            head = method["headlines"][name]
            assert head["low"] <= head["estimate"] <= head["high"]


def test_what_one_run_was_trained_on_is_held_out_for_none(record):
    assert record["runs"][1]["seen"] == ["swap"]
    assert record["held_out"] == [name for name in CORRUPTIONS if name not in ("swap", "own_errors")]
    assert "swap" in " ".join(record["findings"]["notes"])


def test_damage_can_be_computed_again_from_the_table_of_tokens(runs, record):
    rows = pyarrow.parquet.read_table(runs / "report" / "tokens.parquet").to_pylist()
    assert {row["arm"] for row in rows} == {"forced", "free", "damaged"}
    for number, run in enumerate(record["runs"]):
        tokens = [row for row in rows if row["run"] == run["name"]]
        gold = {(row["example"], row["place"]): row["log_prob"] for row in tokens if row["arm"] == "forced"}
        areas = []
        for name in record["held_out"]:
            for length in SMALL["prefixes"]:  # type: ignore[attr-defined]
                deltas: dict[int, list[float]] = {}
                for row in tokens:
                    if (row["arm"], row["corruption"], row["prefix"]) == ("damaged", name, length):
                        delta = gold[row["example"], row["place"]] - row["log_prob"]
                        deltas.setdefault(row["place"] - length, []).append(delta)
                areas.append(sum(np.mean(values) for values in deltas.values()))
        damage = record["runs"][number]["headlines"]["damage_held_out"]["estimate"]
        assert damage == pytest.approx(np.mean(areas), rel=1e-5)
        correct = np.mean([row["correct"] for row in tokens if row["arm"] == "free"])
        assert run["headlines"]["accuracy_free"]["estimate"] == pytest.approx(correct)


def measured(runs, name, bar=no_bar, **changed):
    settings = DiagnosisSettings(run=str(runs / name), **{**SMALL, **changed})
    return measure(prepare(runs / name, choose(settings), settings.oracles), settings, bar)


def test_kept_measures_are_read_and_those_of_other_settings_are_not(runs, record):
    folder = runs / "plain_0" / "diagnosis" / "cache"
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = measured(runs, "plain_0")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == kept
    assert again.recovery.clean.sum(axis=0)[0] / again.recovery.clean.sum(axis=0)[1] == pytest.approx(
        record["runs"][0]["headlines"]["clean_cost"]["estimate"]
    )
    assert measured(runs, "plain_0", prefixes=[3]).recovery.prefixes == (3,)
    assert len(list(folder.iterdir())) == len(kept) + 1


def test_a_damaged_file_of_kept_measures_is_measured_again(runs):
    before = measured(runs, "swap_0")
    damaged = next((runs / "swap_0" / "diagnosis" / "cache").glob("recovery-*"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    np.testing.assert_array_equal(measured(runs, "swap_0").recovery.deltas, before.recovery.deltas)


def rewritten(path, change):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez_compressed(path, **{name: value for key, array in arrays.items() for name, value in [change(key, array)]})


def flipped(path):
    content = bytearray(path.read_bytes())
    for offset in range(60, len(content) - 300, 7):
        content[offset] ^= 0x55
    path.write_bytes(content)


def marked(path, offset, value):
    """Change a byte of each entry in a zip file's directory."""
    content, at = bytearray(path.read_bytes()), 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        content[at + offset] = value
        at += 4
    path.write_bytes(content)


def plain(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


DAMAGE = {
    "names": lambda path: rewritten(path, lambda name, array: (f"x{name}", array)),
    "shapes": lambda path: rewritten(path, lambda name, _: (name, np.zeros((1, 1, 1)))),
    "zeros": lambda path: rewritten(path, lambda name, array: (name, array if name == "sha256" else array * 0)),
    "bytes": flipped,
    "compression": lambda path: marked(path, 10, 99),
    "encrypted": lambda path: marked(path, 8, 1),
    "npy": plain,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_kept_measures_that_are_not_as_written_are_not_read(tmp_path, kind):
    path = tmp_path / "a.npz"
    arrays: dict[str, np.ndarray] = {
        "ids": np.arange(1, 400),
        "empty": np.zeros((0, 3)),
        "costs": np.ones((2, 3), np.float32),
    }
    cache.write(path, arrays)
    assert {name: array.tolist() for name, array in cache.read(path).items()} == {
        name: array.tolist() for name, array in arrays.items()
    }
    DAMAGE[kind](path)
    assert cache.read(path) is None


def test_every_pass_reports_its_progress(runs):
    progress = {}

    @contextmanager
    def bar(title, size):
        progress[title] = [size, 0]

        def on_progress(done):
            progress[title][1] += done

        yield on_progress

    measured(runs, "plain_1", bar, seed=5, beams=[1, 3], examples=7)
    assert len(progress) == len(PASSES) - 1  # there is no oracle
    assert all(size == done > 0 for size, done in progress.values())


def test_a_file_of_examples_has_the_run_s_fields_and_the_command_says_where_the_report_is(runs, capsys):
    path = runs / "own.jsonl"
    texts = ["a b c d", "d c b a j", "a a a", "j i h g f e"]
    path.write_text("".join(json.dumps(Example(text, text)._asdict()) + "\n" for text in texts), encoding="utf-8")
    arguments = ["beams=[1,2]", "resamples=50", f"output={runs / 'own'}"]
    assert main([f"run={runs / 'plain_0'}", f"data={path}", *arguments]) == 0
    out = capsys.readouterr().out
    assert f"{runs / 'own' / 'report.html'}" in out
    assert "diagnosis|data:" in out
    results = json.loads((runs / "own" / "report.json").read_text(encoding="utf-8"))
    assert (results["data"]["pairs"], results["data"]["origin"]) == (4, str(path))


def test_the_mean_of_other_runs_replaces_an_unknown_truth(runs):
    measurements = measured(runs, "plain_0", oracle=f"{runs / 'plain_1'},{runs / 'swap_0'}", samples=2)
    assert not measurements.exact
    accumulation = details(measurements, 0)["accumulation"]
    assert accumulation["oracle"] == f"the mean of {runs / 'plain_1'}, {runs / 'swap_0'}"
    assert measurements.divergences.data.shape[0] == 60
    assert np.nanmin(measurements.divergences.data) >= 0


def test_the_truth_of_a_synthetic_task_is_known(tmp_path):
    steps = [f"run.{key}=2" for key in ("steps", "evaluate_every", "save_every", "evaluate_examples")]
    task = Transduction(noise=0.4, longest=10)  # other than by default, so that a judge by the default would differ
    keys = ["data.size=300", "data.task.noise=0.4", "data.task.longest=10", "model.width=32", f"run.folder={tmp_path}"]
    run = fit(Recipe.load("synthetic_oracle", [*keys, *steps]))
    settings = DiagnosisSettings(run=str(tmp_path), **SMALL)
    measurements = measure(prepare(tmp_path, choose(settings)), settings, no_bar)
    assert (measurements.truth, measurements.exact) == ("the task itself", True)
    names = [quantity.name for quantity in quantities([measurements])]
    assert names[-2:] == ["excess_error_50", "excess_error_90"]
    source, target = measurements.sources[0].split(), measurements.references[0].split()
    known = task.along(source, target)[0]
    score = run.score([measurements.sources[0]], [measurements.references[0]])[0][0]
    first = next(distributions(run.model, run.vocabulary, [(measurements.source_ids[0], [])]))[1][0]
    ids = [run.vocabulary.encode(word)[0] for word in task.words]
    assert first[ids["ABCDEFGH".index(target[0])]] == pytest.approx(float(score), abs=1e-5)
    kl = sum(np.exp(p) * (p - first[token]) for p, token in zip(known, ids, strict=False))
    assert measurements.divergences.data[0][0] == pytest.approx(kl, abs=1e-5)


WRONG = [
    (["rum=x"], "unknown key 'rum'; did you mean 'run'?"),
    (["run=RUNS/none"], "run 'RUNS/none': no run there (no run.json)"),
    (["data=x"], "run: missing; give run=FOLDER"),
    (["run=RUNS/plain_0,RUNS/plain_0"], "run: RUNS/plain_0 is given twice"),
    (["run=RUNS/plain_0", "data=RUNS/none.jsonl"], "RUNS/none.jsonl: cannot be read: No such file or directory"),
    (["run=RUNS/plain_0", "beams=[4,2]"], "beams: [4, 2] are not different numbers from 1 on, in rising order"),
    (["run=RUNS/plain_0", "examples=0"], "examples: 0 is not at least 1"),
    (["run=RUNS/plain_0", "split=train"], "split"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_mistake_is_one_line(runs, capsys, arguments, message):
    assert main([argument.replace("RUNS", str(runs)) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message.replace("RUNS", str(runs)) in error
    assert error.count("\n") == 1


def test_runs_of_other_data_need_a_file(runs, tmp_path):
    shutil.copytree(runs / "plain_0", tmp_path / "other", symlinks=True)
    metadata = json.loads((tmp_path / "other" / "run.json").read_text(encoding="utf-8"))
    (tmp_path / "other" / "run.json").write_text(json.dumps(metadata | {"data": "0123456789ab"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"was trained on the data 0123456789ab, .*; give data=FILE"):
        diagnose(DiagnosisSettings(run=f"{runs / 'plain_0'},{tmp_path / 'other'}", **SMALL))
