"""The parts of training: set-up, one update, state, evaluation, reports; ``s2s.train`` is the loop."""
