"""Typed settings from layers of YAML files and the command line; errors name the key, its position and a remedy."""

from s2s.config.layers import Layer, given_keys, read_arguments, read_file, read_text
from s2s.config.merge import Schema, merge

__all__ = ["Layer", "Schema", "given_keys", "merge", "read_arguments", "read_file", "read_text"]
