"""How a process was launched, read from its environment, and how the processes of a group meet.

``accelerate launch`` hands its flags and its configuration file (``accelerate config``) over as environment variables,
and a shell, a container or a cluster may have left others there. The recipe alone says what is trained, so this module
reads every variable that accelerate or torch would otherwise obey silently:

- taken: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` of a
  launcher, or MPI's own names of the first three (``MPI``); ``ACCELERATE_USE_CPU``; ``ACCELERATE_MIXED_PRECISION``
  and ``ACCELERATE_DYNAMO_BACKEND`` for keys that a recipe leaves open (run.precision, run.compile); and so
  ``ACCELERATE_USE_FSDP`` with ``FSDP_VERSION=2`` (run.sharding);
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
"""The number of processes, the rank of this one, and its rank on its machine."""
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
MPI = (
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
)
KEPT = ("ACCELERATE_DEBUG_MODE", "ACCELERATE_LOG_LEVEL", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_ENABLE_RICH")
PREFIXES = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "FP8_")
SHARDED = "ACCELERATE_USE_FSDP"
TAKEN = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND")
KEYS = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "accumulate", "ACCELERATE_GRADIENT_CLIPPING": "clip"}
"""Variables that accelerate would obey in place of a key of ``run:``."""
PLAIN = {"ACCELERATE_DYNAMO_MODE": "default", "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "NO"}
"""Values that the launcher sets by default, and that are not reported; neither are flags that are false."""
FSDP = {
    **{"FSDP_VERSION": "2", "FSDP_SHARDING_STRATEGY": "FULL_SHARD", "FSDP_RESHARD_AFTER_FORWARD": "true"},
    **{"FSDP_MIN_NUM_PARAMS": "100000000", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"},
    **{"FSDP_USE_ORIG_PARAMS": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true", "FSDP_SYNC_MODULE_STATES": "true"},
}
"""Such values of --use_fsdp: they are how ``run.sharding: full`` does it, or count for version 1 only."""
TRUE, FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0", "none", "")
PRECISIONS = {"no": None, "fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
COMPILERS = {"no": None, "inductor": True}

MEETING, ALONE = timedelta(minutes=10), timedelta(days=2)
"""How long processes wait for one another at the start, and later, while one of them works for all: it may read and
pack large data, write a checkpoint, or wait for another run to leave the folder."""
BY_HAND = timedelta(seconds=60)
"""How long they wait at the start without a launcher: variables that were left over must not block a single process."""
SILENT = timedelta(seconds=5)
"""How long a process waits for the others before it prints a line about it."""


class Launch(NamedTuple):
    """The device, the group of processes and the settings that the launcher gave to this process."""

    device: str  # cuda, cpu or mps
    processes: int = 1
    process: int = 0
    group: dict[str, str] | None = None  # torch's variables of a group of processes, where there is one
    precision: str | None = None
    compile: bool | None = None
    sharding: str | None = None
    notes: tuple[str, ...] = ()


def read_launch(environment: Mapping[str, str] = os.environ, asked: str = "auto") -> Launch:
    """Return what the environment asks for; ``asked`` is a recipe's ``run.device``.

    Errors: a UserError for a way of training that this project has not, for processes that no launcher has started, and
    for a device that is not there.
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
    sharding = "full" if _flag(environment, SHARDED) else None
    return Launch(
        device, size, rank, group, precision, compiler, sharding, tuple(_notes(environment, device, cpu, asked))
    )


def settle(
    run: RunSettings, launch: Launch, environment: Mapping[str, str] = os.environ
) -> tuple[RunSettings, list[str]]:
    """Let the launcher decide what the recipe leaves open; return the settings and lines on variables used and ignored.

    ``run.processes``, ``run.precision`` and ``run.sharding`` stay open in the run's recipe: each start's launcher
    decides them.
    """
    lines = list(launch.notes)
    for name, key in KEYS.items():
        if name in environment and environment[name] not in (str(getattr(run, key)), "auto", "none"):
            lines.append(f"run.{key}: {getattr(run, key)} holds; {name}={environment[name]} is not used")
    if launch.compile and run.compile is False:
        lines.append("run.compile: false holds; ACCELERATE_DYNAMO_BACKEND=inductor is not used")
    elif launch.compile and run.compile is None:
        lines.append("run.compile: true, as the launcher asks (ACCELERATE_DYNAMO_BACKEND=inductor)")
    if launch.sharding and run.sharding == "none":
        lines.append(f"run.sharding: none holds; {SHARDED}={environment.get(SHARDED)} is not used")
    return replace(run, compile=bool(launch.compile) if run.compile is None else run.compile), lines


def join(launch: Launch, environment: Mapping[str, str] = os.environ) -> None:
    """Wait until all processes of the group have come up; later waits for one another may take ``ALONE``.

    Errors: a UserError where not all come up before one deadline.
    """
    if launch.group is None or distributed.is_initialized():
        return
    names = [name for family in (GROUP, *MPI, ADDRESS) for name in family if environment.get(name)]
    unset = f"unset {', '.join(names)}, or start all with accelerate launch or torchrun"
    os.environ.update(launch.group)  # torch does not read MPI's names
    # Torchrun and accelerate set this variable; they end all processes when one of them fails to start.
    limit = MEETING if "TORCHELASTIC_RUN_ID" in environment else BY_HAND
    deadline = time.monotonic() + limit.total_seconds()
    address = ":".join(launch.group[name] for name in ADDRESS)
    others = ", ".join(str(rank) for rank in range(launch.processes) if rank != launch.process)
    waiting = (
        f"process {launch.process} waits at {address} for the others of WORLD_SIZE={launch.processes}, RANK {others}, "
        f"for {limit.total_seconds():g} seconds; where there are none, {unset}"
    )
    timer = Timer(SILENT.total_seconds(), plain_console(stderr=True).print, [waiting])
    timer.daemon = True
    timer.start()
    try:
        store, rank, size = next(rendezvous("env://", timeout=limit))
        # ``init_process_group`` has one timeout for the meeting and for all later waits; this meeting has its own.
        store.set(f"s2s/{rank}", "here")
        left = timedelta(seconds=max(deadline - time.monotonic(), 1))
        store.wait([f"s2s/{number}" for number in range(size)], left)
        backend = "nccl" if launch.device == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=ALONE)
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"WORLD_SIZE={launch.processes}: the processes did not meet at {address} ({first_line(error)}); {unset}"
        ) from error
    finally:
        timer.cancel()


@contextmanager
def hidden_from_accelerate(launch: Launch) -> Iterator[None]:
    """Hide from accelerate the variables that this module has read; turn its errors into a UserError."""
    gone = [name for name in os.environ if name.startswith(PREFIXES) and name not in KEPT]
    # Left-over ranks would make accelerate wait for processes that do not exist.
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
        if name == SHARDED:
            _refuse_other_sharding(environment)
            continue
        if name == "ACCELERATE_USE_SAGEMAKER" and environment.get("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE") == "NO":
            continue
        # Ignoring it would be worse: on a processor accelerate falls back to plain processes silently.
        way = name.removeprefix("ACCELERATE_USE_")
        raise UserError(
            f"accelerate launch: {way} was asked for ({name}={environment[name]}); this command trains unsharded "
            f"processes: leave the flag out, choose otherwise in accelerate config, or unset the variable"
        )


def _refuse_other_sharding(environment: Mapping[str, str]) -> None:
    """Refuse the ways of FSDP that ``run.sharding: full`` is not."""
    version = environment.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(
            f"accelerate launch: FSDP of version {version} was asked for ({SHARDED}={environment[SHARDED]}); this "
            f"command has version 2: add --fsdp_version 2, or start it without --use_fsdp and set run.sharding=full"
        )
    if _flag(environment, "FSDP_OFFLOAD_PARAMS"):
        raise UserError(
            "accelerate launch: FSDP was asked to keep parameters in main memory (FSDP_OFFLOAD_PARAMS), which this "
            "command does not; leave the flag out"
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
    address = {name: environment[name] for name in ADDRESS if environment.get(name)}
    for family in (GROUP, *MPI):
        given = [_number(environment, name) for name in family]
        size, rank, local = (value or 0 for value in given)
        whole = None not in given and len(address) == len(ADDRESS)
        several = size > 1 or rank > 0 or local > 0
        # Torchrun makes a group of one process too; MPI's variables of one may come from a cluster, without a launcher.
        if whole and (several or family == GROUP):
            if not local <= rank < size:
                raise UserError(f"{family[1]}={rank}: with {family[0]}={size} and {family[2]}={local} it cannot be")
            port = _number(environment, "MASTER_PORT")
            if port is None or port >= 1 << 16:
                raise UserError(f"MASTER_PORT={address['MASTER_PORT']} is no port up to {(1 << 16) - 1}; unset it")
            return dict(zip(GROUP, map(str, (size, rank, local)), strict=True)) | address
        if several:
            there = ", ".join(f"{name}={environment[name]}" for name in family if environment.get(name))
            missing = ", ".join(name for name in (*family, *ADDRESS) if not environment.get(name))
            raise UserError(
                f"{there}: no launcher has started this process ({missing} not set); unset that, or start all "
                f"processes with accelerate launch or torchrun"
            )
    return None


def _check_devices(group: Mapping[str, str], environment: Mapping[str, str]) -> None:
    gpus = torch.cuda.device_count()
    processes = max(int(group["LOCAL_RANK"]) + 1, _number(environment, "LOCAL_WORLD_SIZE") or 0)
    if processes > gpus:
        raise UserError(
            f"{processes} processes on this machine, but {gpus} GPU{'s' * (gpus > 1)}: start at most {gpus} here "
            f"(accelerate launch --num_processes, torchrun --nproc-per-node), or train on the processor with "
            f"ACCELERATE_USE_CPU=true"
        )


def _device(asked: str, cpu: bool) -> str:
    """Return the kind of device to train on."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        # Never Apple's GPU: it has no float64, in which sums and searches are computed here.
        return "cuda" if present["cuda"] and not cpu else "cpu"
    if not present[asked]:
        valid = ", ".join(["auto", *(name for name in sorted(present) if present[name])])
        raise UserError(f"run.device: torch sees no '{asked}' on this machine; valid here: {valid}")
    if cpu and asked != "cpu":
        raise UserError(f"run.device: {asked}, but ACCELERATE_USE_CPU asks for the processor; unset one of the two")
    return asked


def _notes(environment: Mapping[str, str], device: str, cpu: bool, asked: str) -> Iterator[str]:
    """Yield lines on variables that are ignored, and on why no GPU is used."""
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
    known, plain = (*KEPT, *TAKEN, *KEYS), PLAIN | (FSDP if _flag(environment, SHARDED) else {})
    unused = sorted(
        name
        for name, value in environment.items()
        if name.startswith(PREFIXES) and name not in known and not name.startswith("ACCELERATE_USE_")
        if value.strip().lower() not in (*FALSE, plain.get(name, "").lower())
    )
    if unused:
        yield f"not used: {', '.join(f'{name}={environment[name]}' for name in unused)}"
