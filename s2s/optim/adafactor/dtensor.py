"""Parameters that are divided among processes: the local part of each, and sums over all parts."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from s2s.errors import UserError


class Division(NamedTuple):
    """A cut along ``axis`` among the processes of one dimension of a mesh; other dimensions hold copies."""

    axis: int
    mesh: DeviceMesh
    dimension: int

    @property
    def group(self) -> ProcessGroup:
        """The processes that share the parameter."""
        return self.mesh.get_group(self.dimension)

    def share(self, length: int) -> slice:
        """Return this process's part of an axis, as torch cuts it: equal parts, the last ones shorter or empty."""
        part = -(-length // self.mesh.size(self.dimension))
        start = min(length, part * self.mesh.get_local_rank(self.dimension))
        return slice(start, min(length, start + part))

    def zeros(self, shape: Sequence[int], axis: int, dtype: torch.dtype, device: torch.device) -> DTensor:
        """Return a tensor of zeros in which each process holds its part of an axis."""
        share = self.share(shape[axis])
        part = torch.zeros([*shape[:axis], share.stop - share.start, *shape[axis + 1 :]], dtype=dtype, device=device)
        placements: list[Placement] = [Replicate()] * self.mesh.ndim
        placements[self.dimension] = Shard(axis)
        # Shape and strides of the whole are given, since unequal parts do not tell them; a check would send messages.
        strides = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(part, self.mesh, placements, run_check=False, shape=torch.Size(shape), stride=strides)


def division_of(parameter: Tensor) -> Division | None:
    """Return how a parameter is divided, or None where this process holds all of it.

    Errors: a UserError if two dimensions of a mesh divide it.
    """
    if not isinstance(parameter, DTensor):
        return None
    placements = parameter.placements
    cuts = [(index, placement) for index, placement in enumerate(placements) if not isinstance(placement, Replicate)]
    if not cuts:
        return None
    dimension, cut = cuts[0]
    if len(cuts) > 1 or not isinstance(cut, Shard):
        raise UserError(f"a parameter placed as {placements}: at most one dimension of a mesh may divide it, by Shard")
    # The dimension of a ``Shard`` may count from the end.
    return Division(cut.dim % parameter.ndim, parameter.device_mesh, dimension)


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor; changes in place reach the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_gradient(parameter: Tensor) -> Tensor:
    """Return this process's part of a parameter's gradient, divided as the parameter is."""
    gradient = parameter.grad
    assert gradient is not None
    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
        gradient = gradient.redistribute(placements=parameter.placements)
    return local(gradient)


def add_over_processes(parts: Iterable[tuple[Tensor, Division | None]]) -> None:
    """Sum each tensor, in place, over the processes that share its parameter.

    All tensors of one group of processes travel in one message: many small ones would cost a round trip each.
    """
    bundles = defaultdict[tuple[ProcessGroup, torch.dtype, torch.device], list[Tensor]](list)
    for tensor, division in parts:
        if division is not None:
            bundles[division.group, tensor.dtype, tensor.device].append(tensor)
    for (group, *_), tensors in bundles.items():
        message = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(message, group=group)
        for tensor, total in zip(tensors, message.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))
