"""Randomness as a function of its place: a seed is a hash of where it is used, never of what was drawn before."""

import math
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor


def seed_of(*place: int | str) -> int:
    """A seed in [0, 2^63) for a place such as ``(seed, "dropout", step, process, micro_batch)``."""
    digest = sha256("\0".join(f"{type(part).__name__}:{part}" for part in place).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_device(seed: int, device: torch.device | None = None) -> None:
    """Seed torch's generator of the CPU and that of one GPU; unlike ``torch.manual_seed``, those of no other one."""
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def forked_generators(device: torch.device) -> AbstractContextManager[None]:
    """Return a context after which torch's generators of the CPU and of one device stand where they stood."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


class Draws(NamedTuple):
    """The draws of one method for the rows of a batch; ``seeds`` [B] are the batch's."""

    seeds: Tensor
    method: str

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Uniform numbers in (0, 1), float32 [B, *shape]; the first axis of ``shape`` may grow without changing any.

        23 bits each, at the middle of its interval: one more, and float32 would round the last one to 1.
        """
        counter = torch.arange(math.prod(shape), device=self.seeds.device).view(shape)
        start = self.seeds.view(-1, *[1] * len(shape)) ^ seed_of(self.method, purpose)
        return _top_bits(_mix(_mix(start) + counter * _signed(0x9E3779B97F4A7C15)))

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal numbers [B, *shape] (Box and Muller 1958)."""
        radius = (-2 * self.uniform(f"{purpose} radius", *shape).log()).sqrt()
        return radius * (2 * math.pi * self.uniform(f"{purpose} angle", *shape)).cos()

    def gumbel(self, purpose: str, *shape: int) -> Tensor:
        """Standard Gumbel numbers [B, *shape]: scores plus them have their largest at a sample of the softmax."""
        return -(-self.uniform(purpose, *shape).log()).log()


def _signed(number: int) -> int:
    """An unsigned 64-bit number as the signed one with the same bits."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _shift(bits: Tensor, by: int) -> Tensor:
    """A shift to the right that fills with zeros."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser: every bit of the result depends on every bit; products wrap around."""
    bits = (bits ^ _shift(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shift(bits, 31)


def _top_bits(bits: Tensor) -> Tensor:
    return (_shift(bits, 41).float() + 0.5) / (1 << 23)
