"""Random numbers as a function of where they are used, never of what was drawn before.

A seed is a hash of its purpose and place: (recipe seed, method, step, process ...). So a resumed run draws the numbers
of an undisturbed one, and a row of a batch draws the same numbers whichever process or micro-batch it falls into.
"""

import math
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor


def seed_of(*parts: int | str) -> int:
    """Return a seed in [0, 2^63) for parts such as ``(seed, "dropout", step, process, micro_batch)``."""
    # The types are hashed too: 1 and "1" are different parts.
    digest = sha256("\0".join(f"{type(part).__name__}:{part}" for part in parts).encode()).digest()
    # 63 bits, as int64 tensors and torch's generators take no greater seeds.
    return int.from_bytes(digest[:8], "big") >> 1


def seed_device(seed: int, device: torch.device | None = None) -> None:
    """Seed torch's generators of the CPU and of one GPU; ``torch.manual_seed`` would seed those of all GPUs."""
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def forked_generators(device: torch.device) -> AbstractContextManager[None]:
    """Return a context that restores torch's generators of the CPU and of one device at its end."""
    # By default the generators of all GPUs would be saved and restored.
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


class Draws(NamedTuple):
    """The random numbers of one method for the rows of a batch, whose seeds are ``seeds`` [B]."""

    seeds: Tensor
    method: str

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Return uniform numbers in (0, 1), float32 [B, *shape].

        A longer first axis of ``shape`` appends numbers and changes none, so padding does not matter.
        """
        counter = torch.arange(math.prod(shape), device=self.seeds.device).view(shape)
        start = self.seeds.view(-1, *[1] * len(shape)) ^ seed_of(self.method, purpose)
        # SplitMix64 (Steele et al. 2014): its state grows by 2^64 / golden ratio, so number i needs none before it.
        return _top_bits(_mix(_mix(start) + counter * _signed(0x9E3779B97F4A7C15)))

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Return standard normal numbers [B, *shape] (Box and Muller 1958)."""
        # Uniform numbers are never 0 (see ``_top_bits``), so logarithms are finite.
        radius = (-2 * self.uniform(f"{purpose} radius", *shape).log()).sqrt()
        return radius * (2 * math.pi * self.uniform(f"{purpose} angle", *shape)).cos()

    def gumbel(self, purpose: str, *shape: int) -> Tensor:
        """Return standard Gumbel numbers [B, *shape]: the argmax of scores plus them is a sample of their softmax."""
        return -(-self.uniform(purpose, *shape).log()).log()


def _signed(number: int) -> int:
    """Return the signed 64-bit number with the bits of an unsigned one; torch shifts only signed ones."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _shift(bits: Tensor, by: int) -> Tensor:
    """Shift to the right and fill with zeros; torch's own shift of signed numbers copies the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser: every bit of the result depends on every bit; products wrap around."""
    bits = (bits ^ _shift(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shift(bits, 31)


def _top_bits(bits: Tensor) -> Tensor:
    # 23 bits, each number in the middle of its interval: with 24, float32 would round the largest to 1.
    return (_shift(bits, 41).float() + 0.5) / (1 << 23)
