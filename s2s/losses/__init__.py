"""Losses as sums with units, and the forward passes that they are computed from."""
