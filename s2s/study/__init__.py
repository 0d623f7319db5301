"""The comparison of training methods over seeds: its statistics and its pictures."""
