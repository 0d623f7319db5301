"""The ways of tuned paths: measured once, saved with a run, pinned by a key, and measured again elsewhere."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from torch import Tensor

import s2s
from s2s.batch import collate
from s2s.errors import UserError
from s2s.inference.generate import generate
from s2s.inference.packed_model import PackedLinear, TransposedLinear, packed
from s2s.machine.paths import KERNELS, WAYS, computing, stepwise, way
from s2s.machine.worker_pool import kind_of_processor
from s2s.model import Architecture, PrefixTransformer, layers
from s2s.model.initialization import initialise
from s2s.objective import Objective, ObjectiveSettings
from s2s.optim import Adafactor
from s2s.recipe.recipe import Recipe
from s2s.runs import paths
from s2s.runs.metadata import read_metadata
from s2s.runs.paths import PATHS, Sizes, choose, sizes_of, timed
from s2s.search.methods.beam import SearchSettings
from s2s.vocabulary import Vocabulary

WHOLE = Sizes(128, 512, 2, 2, tokens=2048, sources=32, hypotheses=4, head_size=64, int8=True, matrix=True)
"""The sizes of a run that has all paths."""
SHAPE = {"vocabulary": 61, "layers": 2, "width": 64, "heads": 2, "feed_forward": 96, "positions": 60, "dropout": 0.0}


def test_every_path_has_its_ways_and_its_row():
    assert list(PATHS) == list(WAYS)
    assert set(WAYS["products"]) == set(KERNELS)


def test_ways_hold_within_and_not_outside():
    assert all(way(name) == first for name, (first, *_) in WAYS.items())
    with computing({"linear": "torch", "products": "onednn"}):
        assert (way("linear"), way("packed")) == ("torch", "onednn")
        with computing({}):
            assert way("linear") == "onednn"
        assert way("linear") == "torch"
    assert way("linear") == "onednn"
    with pytest.raises(ZeroDivisionError), computing({"linear": "torch"}):
        1 / 0  # noqa: B018
    assert way("linear") == "onednn"


def test_a_generator_s_ways_are_not_its_caller_s():
    seen = stepwise({"attention": "torch"}, (way("attention") for _ in range(2)))
    assert [(value, way("attention")) for value in seen] == [("torch", "c")] * 2


def test_timings_tell_a_slow_work_from_a_fast_one():
    seconds = timed({"slow": lambda: sum(range(40_000)), "fast": lambda: sum(range(4_000))})
    assert seconds["slow"] > 3 * seconds["fast"]


@pytest.mark.parametrize(("faster", "taken"), [(0.5, 0), (1.0, 0), (1.02, 0), (9.0, 1)])
def test_the_faster_way_is_taken_and_a_tie_goes_to_the_first(
    faster: float, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths._measured.cache_clear()
    # A way may be the first of one path and the second of another, so the seconds go by place.
    monkeypatch.setattr(paths, "timed", lambda works: dict(zip(works, (1.0, 1 / faster), strict=True)))
    ways, line = choose(WHOLE, {})
    paths._measured.cache_clear()
    missing = {name for name, row in PATHS.items() if row.missing()}
    # Without oneDNN's packed matrices nothing is left for ``few`` to choose.
    assert ways.keys() == WAYS.keys() - ({"few"} if ways["packed"] == "torch" else set())
    assert all(way == WAYS[name][taken] for name, way in ways.items() if name not in missing)
    assert line.startswith(f"paths on {kind_of_processor()}: products {ways['products']} (")


def test_all_paths_are_really_timed_and_pins_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    paths._measured.cache_clear()
    timings = []
    monkeypatch.setattr(paths, "timed", lambda works: timings.append(timed(works)) or timings[-1])
    ways, line = choose(WHOLE, {"attention": "torch"})
    paths._measured.cache_clear()
    assert ways["attention"] == "torch"
    assert "attention torch (run.paths)" in line
    assert len(timings) == sum(not row.missing() for name, row in PATHS.items() if name != "attention")
    assert all(seconds > 0 for row in timings for seconds in row.values())
    assert all(ways[name] in WAYS[name] for name in WAYS)


def test_a_run_without_such_work_times_nothing_for_it():
    assert choose(Sizes(12, 20, 3, 2), {})[0].keys() == {"products"}


def test_sizes_are_the_run_s_own():
    recipe = Recipe.load("toy_copy", ["run.tokens=4096", "run.accumulate=2", "search.beams=3", "search.batch=16"])
    shape = Architecture(**SHAPE, attention="dot")
    sizes = sizes_of(recipe, shape, 2, "fp32")
    assert (sizes.tokens, sizes.sources, sizes.hypotheses, sizes.head_size) == (1024, 16, 3, 32)
    assert sizes_of(recipe, shape, 2, "bf16").tokens == 0
    assert sizes_of(recipe, replace(shape, attention="dense", source_slots=9, target_slots=9), 1, "fp32").head_size == 0


class Ids(Vocabulary):
    """A vocabulary of ids alone."""

    def __init__(self, size: int) -> None:
        self.size, self.padding, self.begin, self.end, self.unknown = size, 0, 2, 3, 1

    def encode_all(self, texts: Any) -> Any:
        raise NotImplementedError

    decode = save = encode_all


def model_of(seed: int) -> PrefixTransformer:
    torch.manual_seed(seed)
    model = PrefixTransformer(Architecture(**SHAPE))
    initialise(model)
    for parameter in model.parameters():  # far from ties
        parameter.data.mul_(2)
    return model.eval()


def sources(seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 61, (5 + 3 * row,), generator=generator).tolist() for row in range(9)]


@pytest.mark.parametrize("ways", [dict(zip(WAYS, row, strict=True)) for row in product(*WAYS.values())])
def test_every_way_writes_the_same_texts(ways: dict[str, str]) -> None:
    model, vocabulary = model_of(1), Ids(61)
    with computing({}):
        wanted = generate(model, vocabulary, sources(1), SearchSettings(beams=3, n_best=3), 12, lambda _: None)
    with computing(ways):
        found = generate(model, vocabulary, sources(1), SearchSettings(beams=3, n_best=3), 12, lambda _: None)
    for rows, others in zip(found, wanted, strict=True):
        assert [tokens for tokens, _ in rows] == [tokens for tokens, _ in others]
        assert [score for _, score in rows] == pytest.approx([score for _, score in others], rel=1e-5)


def losses(ways: dict[str, str]) -> list[float]:
    """The losses of a few updates with AdaFactor."""
    objective = Objective(model_of(2).train(), ObjectiveSettings())
    # AdaFactor's steps are relative to the gradient, so rounding of the least ones grows with the rate.
    optimizer = Adafactor(objective.parameters(), 1e-3, relative_step=False)
    batch = collate([(row, row[::-1]) for row in sources(2)], 0, 3)
    found = list[float]()
    with computing(ways):
        for _ in range(5):
            loss: Tensor = objective(batch).total
            found.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return found


@pytest.mark.parametrize("ways", [{name: other} for name, (_, other) in WAYS.items()])
def test_every_way_trains_with_the_same_losses(ways: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "LARGE", 1)
    monkeypatch.setattr(paths.kernels, "LARGE", 1)
    first = losses({})
    assert first[-1] < first[0]
    assert losses(ways) == pytest.approx(first, rel=1e-5)


def test_the_way_of_packing_is_the_chosen_one():
    weight, bias = torch.randn(8, 4), torch.zeros(8)
    assert isinstance(packed(weight, bias), PackedLinear)
    with computing({"packed": "torch"}):
        assert isinstance(packed(weight, bias), TransposedLinear)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paths")
    tiny_runs.train(folder / "run", "run.steps=2", "run.paths={attention: torch}")
    return folder / "run"


def edited(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    values = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps(change(values)), encoding="utf-8")


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_saves_its_ways_and_decodes_by_them(trained: Path) -> None:
    metadata = read_metadata(trained)
    assert metadata.processor == kind_of_processor()
    assert metadata.paths["attention"] == "torch"
    assert s2s.load(trained).paths == metadata.ways
    assert sum(line.startswith("paths on ") for line in metadata.report) == 1


DISAGREEING = """
import json, os, sys
from s2s import train
from s2s.machine.paths import WAYS, way
from s2s.runs import paths

# The main process finds each second way ten times as fast, the other process each first one.
first = int(os.environ["RANK"])
paths.timed = lambda works: dict(zip(works, (1.0, 10.0) if first else (10.0, 1.0)))
update = train.update


def noted(*given):
    with open(f"{sys.argv[1]}/ways-{first}.json", "w", encoding="utf-8") as file:
        json.dump({path: way(path) for path in WAYS}, file)
    return update(*given)


train.update = noted
sys.exit(train.main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.processes
def test_processes_that_measure_otherwise_take_the_main_one_s_ways(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(DISAGREEING, encoding="utf-8")
    own = ("model.width=64", "run.steps=2", "run.device=cpu", f"run.folder={tmp_path / 'run'}")
    program = [str(tmp_path / "program.py"), str(tmp_path), "recipe=toy_copy"]
    done = tiny_runs.together(*program, *tiny_runs.TINY, *own, timeout=300)
    assert done.returncode == 0, done.stderr
    ways = [json.loads((tmp_path / f"ways-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert ways[0] == ways[1]
    saved = read_metadata(tmp_path / "run").ways
    assert saved.items() <= ways[0].items()
    assert {"products", "attention"} <= saved.keys()
    assert saved == {path: WAYS[path][1] for path in saved}


def test_a_resumed_run_keeps_its_ways(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "timed", lambda _: pytest.fail("nothing needs to be measured"))
    edited(copy, lambda values: values | {"kernel": "onednn", "paths": {"packed": "torch"}})
    tiny_runs.train(copy, "run.steps=3", "run.paths={}")
    metadata = read_metadata(copy)
    assert metadata.ways == {"products": "onednn", "packed": "torch"}


def test_a_pin_changes_a_resumed_run_and_is_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_runs.train(copy, "run.steps=3", "run.paths={attention: c}")
    assert read_metadata(copy).paths["attention"] == "c"
    out = capsys.readouterr().out
    assert "attention torch -> c" in out


def test_on_another_processor_ways_are_measured_again_and_said(
    copy: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    edited(copy, lambda values: values | {"processor": "Abacus (BEADS)", "paths": {"packed": "torch"}})
    run = s2s.load(copy)
    assert "its paths were measured on Abacus (BEADS), so they are measured here: paths on " in caplog.text
    assert run.paths["attention"] == "torch"  # pinned by the recipe, here as there
    tiny_runs.train(copy, "run.steps=3", "run.paths={}")
    metadata, out = read_metadata(copy), capsys.readouterr().out
    assert metadata.processor == kind_of_processor()
    assert f"processor Abacus (BEADS) -> {kind_of_processor()}" in out
    assert any(line.startswith(f"paths on {kind_of_processor()}: ") for line in metadata.report)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{atention: c}", "run.paths: no path 'atention'; did you mean 'attention'?"),
        ("{attention: onednn}", "run.paths.attention: 'onednn' is neither c nor torch"),
    ],
)
def test_wrong_pins_are_refused(given: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as found:
        tiny_runs.recipe(tmp_path, f"run.paths={given}")
    assert message in str(found.value)


def test_ways_of_a_run_json_are_checked(copy: Path) -> None:
    edited(copy, lambda values: values | {"paths": {"attention": "evil"}})
    with pytest.raises(UserError, match="'evil' is neither c nor torch"):
        read_metadata(copy)


NARROW = """
import torch
from s2s.model import Architecture, PrefixTransformer
from s2s.inference.precisions import PRECISIONS
from s2s.inference.packed_model import TransposedLinear
shape = dict(vocabulary=23, layers=1, width=16, heads=2, feed_forward=20, positions=40, dropout=0.0)
model = PRECISIONS["bf16"](PrefixTransformer(Architecture(**shape)))
assert isinstance(model.output, TransposedLinear)
print(model.log_probs(torch.zeros(3, 16, dtype=torch.bfloat16)).isfinite().all().item())
"""


@pytest.mark.slow
@pytest.mark.skipif("AVX" not in torch.backends.cpu.get_cpu_capability(), reason="no processor with AVX2")
def test_bfloat16_goes_by_torch_where_onednn_has_none():
    done = subprocess.run(
        [sys.executable, "-c", NARROW],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert done.stdout.strip() == "True"
