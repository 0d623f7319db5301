"""Decode a file of sources: ``s2s decode`` for a checkout that is not installed."""

import sys

import _checkout  # noqa: F401

from s2s.commands.decode import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
