"""The moving average of weights over the steps of a run; ``s2s.runs.checkpoints.average`` is that over checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.nn import Module
from torch.optim.swa_utils import get_ema_multi_avg_fn

from s2s.optim.adafactor.dtensor import local


class MovingAverage:
    """The exponential moving average e of a module's parameters w: e <- d e + (1 - d) w after each step.

    d is min(decay, step / (step + 9)), so that a short run forgets where it started, as in TensorFlow's
    ``ExponentialMovingAverage(num_updates=...)``. Every process computes the same average from the same weights.
    """

    def __init__(self, module: Module, decay: float) -> None:
        self.module, self.decay = module, decay
        trained = (pair for pair in module.named_parameters() if pair[1].requires_grad)
        self.parameters = dict(trained)
        self.tensors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def update(self, step: int) -> None:
        """Mix in the weights after a step."""
        average = get_ema_multi_avg_fn(min(self.decay, step / (step + 9)))
        # A process averages its own parts of parameters that are divided.
        parts = [local(parameter.detach()) for parameter in self.parameters.values()]
        average([local(tensor) for tensor in self.tensors.values()], parts, step)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the module the averaged weights inside the context."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        # Values, not pointers: whatever divides or packs parameters holds their memory. They come back to the bit.
        for name, parameter in self.parameters.items():
            trained, averaged = local(parameter.detach()), local(self.tensors[name])
            kept = trained.clone()
            trained.copy_(averaged)
            averaged.copy_(kept)

    def state(self) -> dict[str, Tensor]:
        """Return the module's state with the averaged weights."""
        state = self.module.state_dict()
        return {name: self.tensors.get(name, tensor).detach() for name, tensor in state.items()}
