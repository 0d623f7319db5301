"""The mitigations in other people's training loops: ``mitigate`` for the ``Trainer`` of transformers and its like."""

from s2s.integrations.mitigate import mitigate

__all__ = ["mitigate"]
