"""What AdaFactor's options may be."""

from typing import Any

from s2s.errors import UserError

Options = dict[str, Any]
"""The options of a group of parameters by their names."""


def check(options: Options) -> None:
    """Refuse options without meaning."""
    lr, (eps1, eps2) = options["lr"], options["eps"]
    if options["relative_step"] and lr is not None:
        raise UserError("lr: relative_step makes its own rate; give lr with relative_step=False")
    if not options["relative_step"] and lr is None:
        raise UserError("lr: needed with relative_step=False")
    if options["warmup_init"] and not options["relative_step"]:
        raise UserError("warmup_init: needs relative_step=True")
    if eps1 is None and not options["eps_floor"]:
        raise UserError("eps: the first may be None with eps_floor=True only")
    if options["decay_by_schedule"] and not (lr is not None and lr > 0):
        raise UserError("lr: decay_by_schedule measures the schedule by it, so it must be above 0")
    threshold, beta1 = options["clip_threshold"], options["beta1"]
    rules = {
        "lr": lr is None or lr >= 0,
        "eps": (eps1 is None or eps1 >= 0) and eps2 >= 0,
        "clip_threshold": threshold is None or threshold > 0,
        "decay_rate": options["decay_rate"] <= 0,
        "beta1": beta1 is None or 0 <= beta1 < 1,
        "weight_decay": options["weight_decay"] >= 0,
        "beta2_cap": 0 <= options["beta2_cap"] <= 1,
        "max_relative_step": options["max_relative_step"] >= 0,
    }
    for name, holds in rules.items():
        if not holds:
            raise UserError(f"{name}: {options[name]} is out of range")
