"""One run of a study in a process of its own: train, choose the checkpoint, decode, score and diagnose; or label.

``python -m s2s.study.measuring VARIANT SEED study=NAME [key=value ...]`` is what the runner starts. Everything that is
done is on the disk, so that a killed process continues where it was. Training stops at the end of standard input, which
is that of the runner's life.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from s2s.commands import decode
from s2s.console.command_line import exit_code_of
from s2s.console.terminal import log
from s2s.data import load
from s2s.data.dataset import fingerprint
from s2s.data.rows import Example, json_text
from s2s.data.splits import SPLITS
from s2s.diagnose import oracle
from s2s.diagnose.measurements import Divergences, Measurements, Quantity
from s2s.diagnose.passes import measure, no_bar
from s2s.diagnose.record import quantities
from s2s.diagnose.subjects import choose, prepare
from s2s.errors import UserError, first_line, own_version
from s2s.files.atomic import write_atomically
from s2s.files.foreign import read_json
from s2s.files.locks import locked
from s2s.heads.evaluation import head_sums
from s2s.machine.memory import peak_memory
from s2s.machine.paths import computing
from s2s.machine.worker_pool import processor
from s2s.metrics.bootstrap import Numbers
from s2s.metrics.generated import repetition_statistics
from s2s.metrics.overlap import score_statistics
from s2s.recipe.build import load_data
from s2s.recipe.recipe import Recipe
from s2s.runs import checkpoints
from s2s.runs.log import read_log
from s2s.runs.metadata import read_metadata
from s2s.runs.run import Run
from s2s.study import results
from s2s.study.results import Result, Table, head_table, quantity_table, score_table
from s2s.study.settings import KEPT, OtherRun, Plan, Search, read_plan
from s2s.train import fit

PIECES = "study"
"""The folder within a run's folder for what is measured of it."""
WARMUP = 5
"""Steps whose times do not count, where there are others: buffers grow and libraries choose their kernels."""
SECONDS = 5.0
"""Between two records of the time that a run has taken: a killed process loses no more than this."""


class Clock:
    """The CPU seconds and seconds that a run has taken in each phase, over all processes that worked on it.

    The phases are train, measure, and decode for the texts of teachers; before the first one nothing counts. It also
    keeps the most memory that one of these processes held while it trained.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = _times(path)
        self.phase: str | None = None
        self.started = (0.0, 0.0)
        self.lock = threading.Lock()

    def enter(self, phase: str | None) -> None:
        """Count the time from now on for another phase, or for none."""
        with self.lock:
            self.before = self._total()
            self.phase, self.started = phase, (time.process_time(), time.monotonic())

    def save(self) -> dict[str, float]:
        """Write the time so far, and return it."""
        with self.lock:
            total = self._total()
            write_atomically(self.path, json.dumps(total))
        return total

    def _total(self) -> dict[str, float]:
        total = dict(self.before)
        if self.phase is None:
            return total
        cpu, wall = time.process_time() - self.started[0], time.monotonic() - self.started[1]
        for kind, seconds in (("cpu", cpu), ("wall", wall)):
            key = f"{self.phase}_{kind}"
            total[key] = round(total.get(key, 0.0) + seconds, 2)
        if self.phase == "train":
            total["peak_bytes"] = max(total.get("peak_bytes", 0), peak_memory())
        return total


def _times(path: Path) -> dict[str, float]:
    """Read the times of earlier processes; a damaged file is reported, and time counts from now."""
    if not path.is_file():
        return {}
    try:
        return {str(key): float(seconds) for key, seconds in read_json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log(f"{path}: damaged ({first_line(error)}); the time that the run had taken is lost")
        return {}


def work(plan: Plan, variant: str, seed: int) -> None:
    """Do all that is left of a run, and write its results."""
    folder = plan.run_folder(variant, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    clock = Clock(folder.parent / f"{folder.name}.time.json")
    threading.Thread(target=_watch, args=(clock,), daemon=True).start()
    results.check_replaced(plan, [(variant, seed)])
    places = {other: _places(plan, other, clock) for other in plan.needs(variant, seed)}
    recipe = plan.recipe(variant, seed, places)
    scored = _scored(plan, recipe)  # before training: a fault there must not come after it
    write_atomically(plan.begun(variant, seed), plan.fingerprint(variant))
    if not plan.declaration(variant, seed).is_file():
        write_atomically(plan.declaration(variant, seed), plan.hypotheses_hash())
    if not plan.is_trained(variant, seed):
        # A mark whose weights are gone would let other runs read what is not there yet.
        plan.trained(variant, seed).unlink(missing_ok=True)
        clock.enter("train")
    run = fit(recipe)
    # Not the file of results: another run may read the weights while these are still being measured.
    plan.trained(variant, seed).touch()
    kept = results.kept(plan, variant, seed)
    if kept and kept.measured == plan.measured_hash(variant):
        # Trained here again because another run reads its weights. Other hardware has other bits, and what a study
        # has reported once must not change with them.
        log(f"{folder}: trained for runs that read it; its results were there and stay")
        return
    clock.enter("measure")
    result = _measured(plan, variant, seed, run, recipe, scored, clock)
    if kept:  # measured again: what was declared before the run is what was declared then
        result = replace(result, hypotheses=kept.hypotheses)
    size = results.write(results.path_of(plan, variant, seed), result)
    log(f"{folder}: results of {size / 1000:.0f} KB")
    if size > results.MOST_BYTES:
        log(f"{folder}: more than {results.MOST_BYTES / 1000:.0f} KB; score fewer searches or examples")


def _watch(clock: Clock) -> None:
    """Save the clock now and then; at the end of standard input ask training to stop after its step."""
    ended = threading.Event()

    def wait_for_the_end() -> None:
        # The descriptor, not sys.stdin: a thread that holds its lock would break the interpreter's exit.
        while os.read(0, 1):
            pass
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    while not ended.wait(SECONDS):
        clock.save()
    clock.save()
    os.kill(os.getpid(), signal.SIGTERM)


def _places(plan: Plan, other: OtherRun, clock: Clock) -> list[str]:
    """Return the folders of other runs, or the file that they decode for the train split, made where it is missing."""
    folders = [str(plan.run_folder(other.variant, seed)) for seed in other.seeds]
    if other.kind == "run":
        return folders
    name = f"decoded-{other.variant}-{'-'.join(map(str, other.seeds))}"
    output, sources, made = (plan.folder / f"{name}{ending}" for ending in (".jsonl", "-sources.jsonl", ".json"))
    recipe = plan.recipe(other.variant, other.seeds[0])
    examples = load(recipe.data, splits=("train",)).train
    # The texts are of these teachers and sources: where the study or the data have changed since, they are made again.
    wanted = {"teacher": plan.fingerprint(other.variant), "sources": fingerprint({"train": examples})}
    # Two runs may read the same file: the first one makes it, and the other waits.
    with locked(plan.folder / f"{name}.lock", lambda: log(f"{output}: another run is decoding it; waiting")):
        if not output.is_file() or _json_or_none(made) != wanted:
            write_atomically(sources, "".join(json_text({"source": example.source}) + "\n" for example in examples))
            log(f"{output}: decoding {len(examples)} sources of train")
            clock.enter("decode")
            arguments = [f"run={','.join(folders)}", f"input={sources}", f"output={output}", "field=source"]
            if decode.main(arguments):
                raise SystemExit(2)
            clock.enter(None)
            write_atomically(made, json.dumps(wanted))
    return [str(output)]


def _json_or_none(path: Path) -> Any:
    """Return what a file that can be made again holds; None where it is missing or damaged."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


class Scored(NamedTuple):
    """The examples on which a study scores a run, and the report of the data set that they are from."""

    examples: list[Example]
    report: list[str]


def _scored(plan: Plan, recipe: Recipe) -> Scored:
    """Read the split that the study scores. Errors: a UserError where it has no examples."""
    split = plan.settings.split
    dataset = load_data(recipe, SPLITS)
    examples = list(dataset.test if split == "test" else dataset.dev)
    if not examples:
        raise UserError(f"split: the data have no {split} examples; give split=dev, or draw some by data.draw.test")
    return Scored(examples, dataset.report)


def _measured(plan: Plan, variant: str, seed: int, run: Run, recipe: Recipe, scored: Scored, clock: Clock) -> Result:
    """Decode, score and diagnose a trained run; one without targets only labels."""
    settings, examples = plan.settings, scored.examples
    texts: dict[str, list[str]] = {}
    tables = _head_tables(run, recipe, examples)
    for name in plan.searches if recipe.generates else ():
        search = plan.search(name, recipe)
        chosen = examples[: search.examples]
        texts[name] = _decoded(run, name, search, chosen)
        tables |= {f"{name}.{score}": table for score, table in _scores(plan, chosen, texts[name], recipe).items()}
    if settings.diagnose.examples and recipe.generates:
        tables |= _diagnosed(plan, run)
    metadata, log_records = read_metadata(run.folder), read_log(run.folder)
    return Result(
        variant=variant, seed=seed, recipe=plan.fingerprint(variant), measured=plan.measured_hash(variant),
        hypotheses=plan.declaration(variant, seed).read_text(encoding="utf-8"),
        data=metadata.data, tested=fingerprint({"test": examples}),
        version=own_version(), hardware=_hardware(metadata.device, metadata.threads, metadata.precision),
        cost={**clock.save(), **_sizes(run, log_records)}, steps=log_records[-1]["step"], step=run.step,
        dev=[{"step": record["step"], **record["dev"]} for record in log_records if "dev" in record],
        texts=texts, tables=tables, report=scored.report, beams=plan.settings.diagnose.beams,
    )  # fmt: skip


def _sizes(run: Run, log_records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the number of parameters, the bytes of the optimizer's state, and the median seconds of a step."""
    seconds = [record["seconds"] for record in log_records if "seconds" in record]
    return {
        "parameters": sum(parameter.numel() for parameter in run.objective.parameters()),
        "optimizer_bytes": checkpoints.trainer_bytes(run.folder),
        "step_seconds": round(median(seconds[WARMUP:] or seconds), 5),
    }


def _decoded(run: Run, name: str, search: Search, examples: Sequence[Example]) -> list[str]:
    """Return the best text of each example; texts of the same search, checkpoint and examples are kept."""
    path = run.folder / PIECES / f"{name}.json"
    asked = {"search": repr(search), "step": run.step, "sentences": fingerprint({"test": examples})}
    kept = _json_or_none(path)
    if isinstance(kept, dict) and kept.get("asked") == asked and isinstance(kept.get("texts"), list):
        return list(kept["texts"])
    rows = run.search([example.source for example in examples], search.settings, lambda _: None)
    texts = [hypotheses[0].text if hypotheses else "" for hypotheses in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"asked": asked, "texts": texts}, ensure_ascii=False))
    return texts


def _scores(plan: Plan, examples: Sequence[Example], texts: Sequence[str], recipe: Recipe) -> dict[str, Table]:
    references = [list(example.references) or [example.target or ""] for example in examples]
    statistics = score_statistics(texts, references, recipe.data.lang)[0]
    statistics |= repetition_statistics(texts, references, [str(example.source) for example in examples])
    return {score: score_table(score, statistics[score].rows) for score in plan.settings.scores}


def _head_tables(run: Run, recipe: Recipe, examples: Sequence[Example]) -> dict[str, Table]:
    """Return the tables of the scores of the run's heads, without those that need sums of each label."""
    if run.objective.heads is None:
        return {}
    with computing(run.paths):
        sums = head_sums(run.model, run.objective.heads, run.vocabulary, recipe.data, examples, recipe.search.batch)
    return {endpoint: head_table(endpoint.rpartition(".")[2], rows) for endpoint, rows in sums.items()}


def _diagnosed(plan: Plan, run: Run) -> dict[str, Table]:
    """Return the tables of the diagnosis, with what no variant of the study was trained on as held out."""
    wanted = plan.settings.diagnose
    settings = replace(wanted.settings(run.folder), split=plan.settings.split)
    measured = measure(prepare(run.folder, choose(settings)), settings, no_bar)
    # A corruption that one variant has seen is held out for none, as all are compared on the same ones.
    measured = measured._replace(seen=frozenset(plan.seen))
    kept = [
        quantity
        for quantity in [*quantities([measured]), *_excess(measured, wanted.lengths)]
        if quantity.name in (wanted.quantities or KEPT) or quantity.name.startswith("excess_error_after")
    ]
    return {
        quantity.name: quantity_table(quantity, quantity.statistics(measured), settings.distances) for quantity in kept
    }


def _excess(measured: Measurements, lengths: Sequence[int]) -> list[Quantity]:
    """Return the accumulated error in excess after these numbers of tokens, where the run has an oracle."""
    divergences = measured.divergences
    if divergences is None:
        return []
    return [
        Quantity(
            f"excess_error_after_{length}", f"accumulated error in excess, after {length} tokens", "%", "lower",
            partial(_sums_along, divergences, length), oracle.excess,
        )
        for length in lengths
    ]  # fmt: skip


def _sums_along(divergences: Divergences, length: int, _: Measurements) -> Numbers:
    return oracle.statistics(divergences, length)


def _hardware(device: str, threads: int, precision: str) -> dict[str, Any]:
    return {
        "device": device, "processor": f"{processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": threads, "precision": precision, "torch": torch.__version__,
    }  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run the process of one run: 0 when its results are written, 2 after an error that the user can mend."""
    variant, seed, *rest = arguments
    return exit_code_of(lambda: work(read_plan(rest), variant, int(seed)), "stopped")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
