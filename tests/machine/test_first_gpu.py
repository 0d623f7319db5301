"""The first hour on one GPU or several: the card's own line, precision, devices, generators and memory."""

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
import tiny_runs
import torch
from fake_devices import needs_fake_cuda, on_devices, run
from tiny_runs import ready

import s2s
from s2s import train
from s2s.errors import UserError
from s2s.machine.memory import enough_memory
from s2s.recipe.build import build_objective
from s2s.training import step
from s2s.training.setup import check_processes, prepare
from s2s.training.state import State
from s2s.training.step import made_updates, update

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["model.layers=1", "model.width=16", "model.heads=2", "run.evaluate_examples=5"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that is not installed, and says so wherever its own s2s is imported."""
    place = tmp_path_factory.mktemp("checkout")
    for name in ("s2s", "scripts", "recipes"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    with (place / "s2s" / "errors.py").open("a", encoding="utf-8") as file:
        file.write("\nprint('from the checkout')\n")
    return place


@needs_fake_cuda
@pytest.mark.parametrize("devices", [0, 1, 2, 3])
def test_the_cards_own_line_trains_goes_on_after_a_kill_and_decodes(
    devices: int, checkout: Path, tmp_path: Path
) -> None:
    folder, environment = tmp_path / "run", on_devices(devices)
    environment["PYTHONPATH"] = environment["PYTHONPATH"].partition(os.pathsep)[0] if devices else ""
    line = ["-m", "accelerate.commands.launch", "s2s/train.py", "recipe=toy_copy", "run.steps=20", "run.save_every=5"]
    line += [f"run.folder={folder}"]
    # Only tests need a small model: all keys of the line itself are left out.
    small = [*SMALL, "run.evaluate_every=20", "run.tokens=256"]
    with (tmp_path / "first.txt").open("w", encoding="utf-8") as told:
        first = subprocess.Popen(
            [sys.executable, *line, *small],
            cwd=checkout,
            env=environment,
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while first.poll() is None and not (folder / "checkpoints" / "step-00000005").exists():
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    _kill_all_of(folder)
    done = run([*line, *small], environment, checkout)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "first.txt").read_text(encoding="utf-8")
    number = max(devices, 1)
    assert "from the checkout" in done.stdout
    assert f"{number} process{'es' * (number > 1)} on {'cuda (fake cuda)' if devices else 'cpu'};" in done.stdout
    assert f"each gets {256 // number}" in done.stdout
    assert "resuming from step " in done.stdout or "finished at step 20" in (tmp_path / "first.txt").read_text(
        encoding="utf-8"
    )
    metadata = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (metadata["processes"], metadata["device"]) == (number, "fake cuda" if devices else "cpu")
    assert "processes: null" in (folder / "recipe.yaml").read_text(encoding="utf-8")
    (tmp_path / "in.txt").write_text("a b c\nd e\n", encoding="utf-8")
    command = ["scripts/decode.py", f"run={folder}", f"input={tmp_path / 'in.txt'}", f"output={tmp_path / 'out.txt'}"]
    decoded = run(command, environment, checkout)
    assert decoded.returncode == 0, decoded.stderr
    assert len((tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()) == 2


def _kill_all_of(folder: Path) -> None:
    """Kill what torchrun started in sessions of its own: the processes whose command line names the run's folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"run.folder={folder}".encode() in words.split(b"\0"):
            os.kill(int(process.name), signal.SIGKILL)


def test_another_number_of_processes_goes_on_and_one_that_was_asked_for_is_needed(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    s2s.fit(ready(base, folder, "run.steps=2"))
    metadata = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    kernel = "default" if metadata["kernel"] == "tf32" else "tf32"
    (folder / "run.json").write_text(
        json.dumps(metadata | {"processes": 3, "device": "Tesla T4", "kernel": kernel}), encoding="utf-8"
    )
    capsys.readouterr()
    s2s.fit(tiny_runs.recipe(folder, "run.steps=4"))
    told = capsys.readouterr().out
    assert f"device Tesla T4 -> {metadata['device']}, processes 3 -> 1, kernel {kernel} -> " in told
    with pytest.raises(UserError, match=r"run.processes: 2, but 1 came up; leave the key out"):
        s2s.fit(tiny_runs.recipe(folder, "run.steps=6", "run.processes=2"))


@pytest.mark.parametrize(
    "command", ["s2s/train.py", "scripts/decode.py", "scripts/evaluate.py", "scripts/benchmark_decoding.py"]
)
def test_a_file_of_a_checkout_uses_that_checkout(command: str, checkout: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = run([str(checkout / command), "--help"], environment, Path("/"))
    assert done.returncode == 0, done.stderr
    assert "from the checkout" in done.stdout


def test_every_script_finds_its_checkout_first() -> None:
    for script in sorted((ROOT / "scripts").glob("*.py")):
        tree = ast.parse(script.read_text(encoding="utf-8"))
        if not any(isinstance(node, ast.If) for node in tree.body):
            continue  # only imported
        modules = [
            name
            for node in tree.body
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        ]
        foreign = [name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names]
        assert foreign[:1] in ([], ["_checkout"]), script


CHOICE = """
import torch
from s2s.machine.precision import choose_precision, decoding_precision
for setting, launcher in (("auto", None), ("bf16", None), ("auto", "fp32")):
    print(choose_precision(setting, None, launcher).reason)
print(*(decoding_precision("auto", trained, torch.device("cuda")) for trained in ("fp32", "bf16", "fp16")))
print(decoding_precision("auto", "bf16", torch.device("cpu")), decoding_precision("fp32", "bf16", torch.device("cuda")))
"""


@needs_fake_cuda
@pytest.mark.parametrize(
    ("capability", "auto", "why", "decoding"),
    [
        ("8.0", "bf16", "which this GPU has (fake cuda)", "fp32 bf16 fp16"),
        ("7.5", "fp16", "no bfloat16 of its own (fake cuda, compute capability 7.5)", "fp32 fp16 fp16"),
        ("6.1", "fp32", "no fast half precision (fake cuda, compute capability 6.1)", "fp32 fp32 fp16"),
    ],
)
def test_a_gpus_precision_is_one_that_it_has(capability: str, auto: str, why: str, decoding: str) -> None:
    done = run(["-c", CHOICE], on_devices(1, capability))
    assert done.returncode == 0, done.stderr
    first, asked, launched, found, others = done.stdout.splitlines()
    assert first.startswith(f"precision: {auto}, ")
    assert why in first
    assert asked.startswith("precision: bf16, as run.precision says")
    assert ("only emulates bfloat16" in asked) == (capability != "8.0")
    assert launched.startswith("precision: fp32, as the launcher asks")
    assert (found, others) == (decoding, "fp32 fp32")


LIBRARY = """
import sys, torch, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=EncodingWarning)
import s2s
from s2s.machine.paths import kernel
from s2s.search.beam import beam_search
from s2s.inference.model_scorer import PrefixScorer

def states():
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(number) for number in range(2))]

torch.manual_seed(11)
before = states()
recipe = s2s.Recipe.load("toy_copy", sys.argv[1:])
vocabulary, objective = recipe.build()
assert all(map(torch.equal, states(), before)), "build has moved generators"
run = s2s.fit(recipe)
assert all(map(torch.equal, states(), before)), "fit has moved generators"
matmul = torch.backends.cuda.matmul
assert (matmul.fp32_precision, matmul.allow_tf32) == ("none", False)
print(run.device, run.precision, run.models(run.recipe.search).precision, run.paths["products"])
with kernel(run.paths["products"]):
    print(matmul.fp32_precision, matmul.allow_tf32)
assert (matmul.fp32_precision, matmul.allow_tf32) == ("none", False)
batch = run.vocabulary.batch([("a b c", "")], device=run.device)
scorer = PrefixScorer(run.model, batch.source, batch.source_lengths, run.vocabulary.end, run.vocabulary.end)
print(len(beam_search(scorer, beams=2, max_length=4)), len(run.generate(["a b"])), batch.source.device)
print(run.vocabulary.batch([("a", "b")]).source.device, s2s.load(run.folder, device="cpu").device)
"""


@needs_fake_cuda
def test_a_librarys_user_keeps_generators_and_finds_the_device(tmp_path: Path) -> None:
    keys = [*SMALL, "run.steps=2", "run.tokens=256", f"run.folder={tmp_path / 'run'}"]
    done = run(["-c", LIBRARY, *keys], on_devices(2))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == [
        "cuda:0 bf16 bf16 tf32",
        "tf32 True",
        "1 1 cuda:0",
        "cpu cpu",
    ]
    assert "1 of 2 GPUs is used; accelerate launch s2s/train.py starts a process for each" in done.stdout
    assert "products: float32 ones in TF32 on the GPU (run.tf32)" in done.stdout


@needs_fake_cuda
def test_a_run_goes_on_on_another_kind_of_device_and_says_so(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = ready(base, folder, "run.steps=2", "run.precision=auto")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    line = ["-m", "s2s.train", f"recipe={folder / 'recipe.yaml'}"]
    assert run(line, environment).returncode == 0
    done = run([*line, "run.steps=4", "run.tf32=false"], on_devices(1, "7.5"))
    assert done.returncode == 0, done.stderr
    kernel = json.loads((base / "run.json").read_text(encoding="utf-8"))["kernel"]
    means = f"(precision fp32 -> fp16, device cpu -> fake cuda, kernel {kernel} -> ieee, search.precision fp32 -> fp16)"
    assert f"resuming with changes {means}" in done.stdout
    metadata = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (metadata["device"], metadata["precision"], metadata["kernel"]) == ("fake cuda", "fp16", "ieee")
    (arithmetic,) = [line for line in metadata["report"] if "products" in line]
    products, _, attention = arithmetic.partition(", gpu_attention ")
    assert products == "products: float32 ones in whole float32 on the GPU (run.tf32: false)"
    assert attention.startswith("mask (varlen does not run: ")
    assert made.run.processes is None


@needs_fake_cuda
@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            [],
            r"error: step \d, [\d,]+ tokens in 1 micro-batch .run.tokens 2048.: out of memory .*; raise run.acc",
        ),
        (["--dry-run"], r"error: an update of 2,048 tokens .run.tokens.: out of memory .*; raise run.accumulate"),
    ],
)
def test_a_gpu_that_is_too_small_is_one_line(keys: list[str], told: str, tmp_path: Path) -> None:
    line = ["-m", "s2s.train", "recipe=toy_copy", f"run.folder={tmp_path / 'run'}", *SMALL, "run.steps=3"]
    done = run([*line, *keys], on_devices(1, memory=2 * 2**20))
    assert done.returncode == 2, done.stderr
    (error,) = done.stderr.splitlines()
    assert re.match(told, error), error


def test_a_processor_with_too_little_memory_is_one_line(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No machine has so many bytes: the allocations are real, and fail."""
    for allocate in (lambda: torch.empty(2**60), lambda: numpy.empty(2**56)):
        with pytest.raises(UserError, match=r"^here: out of memory .*allocate.*; do less$"):  # noqa: SIM117
            with enough_memory(lambda: "here", "do less"):
                allocate()
    with pytest.raises(RuntimeError, match="shape"), enough_memory(lambda: "here", "do less"):
        torch.ones(2) @ torch.ones(3, 3)
    folder = tmp_path / "run"
    made = ready(base, folder)
    prepared = prepare(made, check_processes(made), folder)
    objective, _ = build_objective(made, prepared.vocabulary)
    state = State(made.run, objective, made.optimizer.build(objective), prepared.precision, None)
    monkeypatch.setattr(step, "accumulate", lambda *_: torch.empty(2**60))
    first = next(made_updates(prepared, 0))
    with pytest.raises(UserError, match=r"^step 1, \d+ tokens in 1 micro-batch .*: out of memory .*run.accumulate"):
        update(prepared, objective, state, first)


def test_a_model_that_fits_nowhere_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["model.width=1000000", "model.heads=2", "model.layers=1"]
    assert train.main(["recipe=toy_copy", f"run.folder={tmp_path / 'run'}", *keys]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: out of memory (")


GROUP = """
import sys
from datetime import timedelta
import torch
from torch import distributed
from s2s import train
from s2s.training import launch, setup
launch.BY_HAND = timedelta(seconds=2)
join = launch.join
def told(launch):
    join(launch)
    print(distributed.group.WORLD._get_backend(torch.device("cpu")).options._timeout)
setup.join = told
code = train.main(sys.argv[1:])
print(code, distributed.is_initialized())
"""


def test_processes_wait_long_for_one_another_and_part_at_the_end(tmp_path: Path) -> None:
    group = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    line = ["-c", GROUP, "recipe=toy_copy", f"run.folder={tmp_path / 'run'}", *SMALL, "run.steps=1"]
    done = run(line, on_devices(0) | group | {"MASTER_PORT": str(_free_port())})
    assert done.stdout.splitlines()[0] == "2 days, 0:00:00", done.stderr
    assert done.stdout.splitlines()[-1] == "0 False"
    alone = run(line, on_devices(0) | group | {"WORLD_SIZE": "2", "MASTER_PORT": str(_free_port())})
    assert alone.stdout.splitlines()[-1] == "2 False"
    (error,) = alone.stderr.splitlines()[-1:]
    assert error.startswith("error: WORLD_SIZE=2: the processes did not meet at 127.0.0.1:")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


SWITCHED = """
import sys, s2s
keys = [*sys.argv[2:], "run.steps=1", "run.precision=fp32"]
for device in ("cpu", "auto", "cpu"):
    run = s2s.fit(s2s.Recipe.load("toy_copy", [*keys, f"run.device={device}", f"run.folder={sys.argv[1]}/{device}"]))
    print("trained on", next(run.model.parameters()).device.type)
"""


@needs_fake_cuda
def test_each_run_of_a_process_has_the_device_of_its_own_recipe(tmp_path: Path) -> None:
    done = run(["-c", SWITCHED, str(tmp_path), *SMALL, "data.size=300"], on_devices(1))
    assert done.returncode == 0, done.stderr
    told = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("trained on")]
    assert told == ["cpu", "cuda", "cpu"]


@needs_fake_cuda
@pytest.mark.parametrize("way", ["run.device=cpu", "ACCELERATE_USE_CPU=true"])
def test_more_processes_than_gpus_train_on_the_processor(way: str, tmp_path: Path) -> None:
    environment, folder = on_devices(1), tmp_path / "run"
    keys = [*SMALL, "data.size=300", "run.steps=2", f"run.folder={folder}"]
    if way.startswith("run."):
        keys.append(way)
    else:
        environment["ACCELERATE_USE_CPU"] = "true"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "s2s.train"]
    done = run([*launcher, "recipe=toy_copy", *keys], environment, ROOT)
    assert done.returncode == 0, done.stderr
    assert "2 processes on cpu" in done.stdout
