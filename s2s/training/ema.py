"""The moving average of weights over the steps of a run; ``s2s.runs.checkpoints.average`` is that over checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.nn import Module
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """The exponential moving average e of a module's parameters w: e <- d e + (1 - d) w after each step.

    d is min(decay, step / (step + 9)), so that a short run forgets where it started, as in TensorFlow's
    ``ExponentialMovingAverage(num_updates=...)``. Every process computes the same average from the same weights.
    """

    def __init__(self, module: Module, decay: float, saved: dict[str, Tensor] | None = None) -> None:
        self.module, self.decay = module, decay
        trained = (pair for pair in module.named_parameters() if pair[1].requires_grad)
        self.parameters = dict(trained)
        self.tensors = {
            name: (parameter if saved is None else saved[name]).detach().to(parameter.device, copy=True)
            for name, parameter in self.parameters.items()
        }

    def update(self, step: int) -> None:
        """Mix in the weights after a step."""
        average = get_ema_multi_avg_fn(min(self.decay, step / (step + 9)))
        average(list(self.tensors.values()), [parameter.detach() for parameter in self.parameters.values()], step)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the module the averaged weights inside the context."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        # Pointers are exchanged, not values: that costs nothing, and the weights come back to the bit.
        for name, parameter in self.parameters.items():
            parameter.data, self.tensors[name] = self.tensors[name], parameter.data

    def state(self) -> dict[str, Tensor]:
        """Return the module's state with the averaged weights."""
        with self.in_place():
            return {name: tensor.detach() for name, tensor in self.module.state_dict().items()}
