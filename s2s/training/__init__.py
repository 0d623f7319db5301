"""The training loop: set-up, one update, state, evaluation, reports."""
