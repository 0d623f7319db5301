"""Typed settings from layers of YAML files and the command line; errors name the key, its place and a remedy."""

from s2s.config.layers import Layer, read_arguments, read_file
from s2s.config.merging import merge

__all__ = ["Layer", "merge", "read_arguments", "read_file"]
