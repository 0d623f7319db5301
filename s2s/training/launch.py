"""What the environment of a process asks for: who started it, on which device, and settings of accelerate's launcher.

``accelerate launch`` hands its flags and its configuration file (``accelerate config``) over as environment variables,
and a shell, a container or a cluster may leave others behind. A recipe says what is trained, so every variable that
accelerate or torch would read without a word is read here first:

- taken: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` of a
  launcher, or MPI's own names of the first three (``MPI``); ``ACCELERATE_USE_CPU``; ``ACCELERATE_MIXED_PRECISION``
  and ``ACCELERATE_DYNAMO_BACKEND`` for keys that a recipe leaves open (run.precision, run.compile);
- left to accelerate: ``KEPT``; left to torch and its libraries: ``CUDA_VISIBLE_DEVICES``, ``NCCL_*``, ``TORCH_*`` ...;
- refused: ``ACCELERATE_USE_*``, which would train otherwise, numbers of a launcher that did not start this process, and
  more processes than GPUs;
- not used, and said so: every other variable of ``PREFIXES``.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Timer
from typing import NamedTuple, TypeVar

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from s2s.console.terminal import plain_console
from s2s.errors import UserError, first_line, nearest
from s2s.recipe.run_settings import RunSettings

Value = TypeVar("Value")

GROUP = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
"""How many processes there are, which one this is, and which one on its machine."""
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
MPI = (
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
)
KEPT = ("ACCELERATE_DEBUG_MODE", "ACCELERATE_LOG_LEVEL", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_ENABLE_RICH")
PREFIXES = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "FP8_")
TAKEN = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND")
KEYS = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "accumulate", "ACCELERATE_GRADIENT_CLIPPING": "clip"}
"""Variables that would change what a key of ``run:`` says."""
PLAIN = {"ACCELERATE_DYNAMO_MODE": "default", "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "NO"}
"""What the launcher sets without being asked; flags that are false need no word either."""
TRUE, FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0", "none", "")
PRECISIONS = {"no": None, "fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
COMPILERS = {"no": None, "inductor": True}

MEETING, ALONE = timedelta(minutes=10), timedelta(days=2)
"""How long processes wait for one another to come up, and later, while one of them works for all: reads and packs the
data, writes a checkpoint, or waits for another run to leave the folder."""
BY_HAND = timedelta(seconds=60)
"""How long they wait where no launcher watches over them, so that variables left behind do not hold a process up."""
SILENT = timedelta(seconds=5)
"""How long a process waits for the others before it says so."""


class Launch(NamedTuple):
    """What this process was asked for by whatever started it."""

    device: str  # cuda, cpu or mps
    processes: int = 1
    process: int = 0
    group: dict[str, str] | None = None  # torch's variables of a group of processes, where there is one
    precision: str | None = None
    compile: bool | None = None
    notes: tuple[str, ...] = ()


def read_launch(environment: Mapping[str, str] = os.environ, asked: str = "auto") -> Launch:
    """Return what the environment asks for; ``asked`` is a recipe's ``run.device``.

    Errors: a UserError for a way of training that is not ours, for processes that no launcher has started, and for a
    device that is not there.
    """
    _refuse_other_training(environment)
    cpu = _flag(environment, "ACCELERATE_USE_CPU")
    device = _device(asked, cpu)
    group = _group(environment)
    if group and device == "cuda":
        _check_devices(group, environment)
    size, rank = (int(group[name]) for name in GROUP[:2]) if group else (1, 0)
    precision = _choice(environment, "ACCELERATE_MIXED_PRECISION", PRECISIONS, "run.precision")
    compiler = _choice(environment, "ACCELERATE_DYNAMO_BACKEND", COMPILERS, "run.compile")
    return Launch(device, size, rank, group, precision, compiler, tuple(_notes(environment, device, cpu, asked)))


def settle(
    run: RunSettings, launch: Launch, environment: Mapping[str, str] = os.environ
) -> tuple[RunSettings, list[str]]:
    """Let the launcher decide what a recipe leaves open; return the settings and lines on that and on what is not used.

    ``run.processes`` and ``run.precision`` stay as they are: they hold for this start alone.
    """
    lines = list(launch.notes)
    for name, key in KEYS.items():
        if name in environment and environment[name] not in (str(getattr(run, key)), "auto", "none"):
            lines.append(f"run.{key}: {getattr(run, key)} holds; {name}={environment[name]} is not used")
    if launch.compile and run.compile is False:
        lines.append("run.compile: false holds; ACCELERATE_DYNAMO_BACKEND=inductor is not used")
    elif launch.compile and run.compile is None:
        lines.append("run.compile: true, as the launcher asks (ACCELERATE_DYNAMO_BACKEND=inductor)")
    return replace(run, compile=bool(launch.compile) if run.compile is None else run.compile), lines


def join(launch: Launch, environment: Mapping[str, str] = os.environ) -> None:
    """Let the processes of the group find one another, all before one deadline.

    Collectives may take ``ALONE`` then. Errors: a UserError where not all come up in time.
    """
    if launch.group is None or distributed.is_initialized():
        return
    names = [name for family in (GROUP, *MPI, ADDRESS) for name in family if environment.get(name)]
    unset = f"unset {', '.join(names)}, or start all with accelerate launch or torchrun"
    os.environ.update(launch.group)  # MPI's own names are read by nobody else
    limit = MEETING if "TORCHELASTIC_RUN_ID" in environment else BY_HAND
    deadline = time.monotonic() + limit.total_seconds()
    place = ":".join(launch.group[name] for name in ADDRESS)
    others = ", ".join(str(rank) for rank in range(launch.processes) if rank != launch.process)
    waiting = (
        f"process {launch.process} waits at {place} for the others of WORLD_SIZE={launch.processes}, RANK {others}, "
        f"for {limit.total_seconds():g} seconds; where there are none, {unset}"
    )
    telling = Timer(SILENT.total_seconds(), plain_console(stderr=True).print, [waiting])
    telling.daemon = True
    telling.start()
    try:
        store, rank, size = next(rendezvous("env://", timeout=limit))
        store.set(f"s2s/{rank}", "here")  # torch's own meeting would wait as long as a collective may
        left = timedelta(seconds=max(deadline - time.monotonic(), 1))
        store.wait([f"s2s/{each}" for each in range(size)], left)
        backend = "nccl" if launch.device == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=ALONE)
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"WORLD_SIZE={launch.processes}: the processes did not meet at {place} ({first_line(error)}); {unset}"
        ) from error
    finally:
        telling.cancel()


def wait_for_all() -> None:
    """Return when all processes have come here.

    The barrier of accelerate is one of GPUs wherever torch sees one: on the processor, too, each process would need a
    GPU of its own.
    """
    if distributed.is_initialized():
        own = [torch.cuda.current_device()] if distributed.get_backend() == "nccl" else None
        distributed.barrier(device_ids=own)


@contextmanager
def unheard(launch: Launch) -> Iterator[None]:
    """Hide from accelerate what was read here; a UserError in the place of what it raises all the same."""
    gone = [name for name in os.environ if name.startswith(PREFIXES) and name not in KEPT]
    gone += [] if launch.group else [name for family in (GROUP, *MPI) for name in family if name in os.environ]
    before = {name: os.environ.pop(name) for name in gone}
    try:
        yield
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(f"accelerate: {first_line(error)}") from error
    finally:
        os.environ.update(before)


def _refuse_other_training(environment: Mapping[str, str]) -> None:
    for name in sorted(environment):
        if not name.startswith("ACCELERATE_USE_") or name == "ACCELERATE_USE_CPU" or not _flag(environment, name):
            continue
        if name == "ACCELERATE_USE_SAGEMAKER" and environment.get("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE") == "NO":
            continue
        # On a processor accelerate would fall back to plain processes without a word.
        way = name.removeprefix("ACCELERATE_USE_")
        raise UserError(
            f"accelerate launch: {way} was asked for ({name}={environment[name]}); this command trains unsharded "
            f"processes: leave the flag out, choose otherwise in accelerate config, or unset the variable"
        )


def _flag(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "").strip().lower()
    if value not in (*TRUE, *FALSE):
        raise UserError(f"{name}={environment[name]} is neither true nor false; unset it")
    return value in TRUE


def _choice(environment: Mapping[str, str], name: str, known: Mapping[str, Value], key: str) -> Value:
    value = environment.get(name, "no").strip().lower() or "no"
    if value not in known:
        raise UserError(f"{name}={environment[name]}: {key} has no '{value}'{nearest(value, known)}; unset it")
    return known[value]


def _number(environment: Mapping[str, str], name: str) -> int | None:
    try:
        value = int(environment.get(name) or -1)
    except ValueError:
        raise UserError(f"{name}={environment[name]} is not a whole number; unset it") from None
    return None if value < 0 else value


def _group(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the variables of the group that a launcher has started this process in; None for a process alone."""
    place = {name: environment[name] for name in ADDRESS if environment.get(name)}
    for family in (GROUP, *MPI):
        given = [_number(environment, name) for name in family]
        size, rank, local = (value or 0 for value in given)
        whole = None not in given and len(place) == len(ADDRESS)
        several = size > 1 or rank > 0 or local > 0
        if whole and (several or family == GROUP):
            if not local <= rank < size:
                raise UserError(f"{family[1]}={rank}: with {family[0]}={size} and {family[2]}={local} it cannot be")
            port = _number(environment, "MASTER_PORT")
            if port is None or port >= 1 << 16:
                raise UserError(f"MASTER_PORT={place['MASTER_PORT']} is no port up to {(1 << 16) - 1}; unset it")
            return dict(zip(GROUP, map(str, (size, rank, local)), strict=True)) | place
        if several:
            there = ", ".join(f"{name}={environment[name]}" for name in family if environment.get(name))
            missing = ", ".join(name for name in (*family, *ADDRESS) if not environment.get(name))
            raise UserError(
                f"{there}: no launcher has started this process ({missing} not set); unset that, or start all "
                f"processes with accelerate launch or torchrun"
            )
    return None


def _check_devices(group: Mapping[str, str], environment: Mapping[str, str]) -> None:
    there, here = torch.cuda.device_count(), int(group["LOCAL_RANK"]) + 1
    here = max(here, _number(environment, "LOCAL_WORLD_SIZE") or 0)
    if here > there:
        raise UserError(
            f"{here} processes on this machine, but {there} GPU{'s' * (there > 1)}: start at most {there} here "
            f"(accelerate launch --num_processes, torchrun --nproc-per-node), or train on the processor with "
            f"ACCELERATE_USE_CPU=true"
        )


def _device(asked: str, cpu: bool) -> str:
    """Return the kind of device to train on."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":  # Apple's GPU has no float64, which sums and searches here are made in
        return "cuda" if there["cuda"] and not cpu else "cpu"
    if not there[asked]:
        valid = ", ".join(["auto", *(name for name in sorted(there) if there[name])])
        raise UserError(f"run.device: torch sees no '{asked}' on this machine; valid here: {valid}")
    if cpu and asked != "cpu":
        raise UserError(f"run.device: {asked}, but ACCELERATE_USE_CPU asks for the processor; unset one of the two")
    return asked


def _notes(environment: Mapping[str, str], device: str, cpu: bool, asked: str) -> Iterator[str]:
    """Yield lines on variables that are not used, and on why no GPU is."""
    if cpu and torch.cuda.is_available():
        yield "on the processor, as the launcher asks (ACCELERATE_USE_CPU)"
    elif asked == "cpu" and torch.cuda.is_available():
        yield "on the processor, as run.device says"
    elif device == "cpu" and "CUDA_VISIBLE_DEVICES" in environment:
        yield f"on the processor: CUDA_VISIBLE_DEVICES={environment['CUDA_VISIBLE_DEVICES']!r} shows no GPU"
    if asked == "auto" and device == "cpu" and torch.backends.mps.is_available():
        yield "on the processor: Apple's GPU has no float64; run.device=mps tries it all the same"
    elif device == "mps":
        yield "on Apple's GPU, as run.device says: it has no float64, so that some methods and scores fail there"
    known = (*KEPT, *TAKEN, *KEYS)
    unused = sorted(
        name
        for name, value in environment.items()
        if name.startswith(PREFIXES) and name not in known and not name.startswith("ACCELERATE_USE_")
        if value.strip().lower() not in (*FALSE, PLAIN.get(name, "").lower())
    )
    if unused:
        yield f"not used: {', '.join(f'{name}={environment[name]}' for name in unused)}"
