"""Write a run for others: ``s2s export`` for a checkout that is not installed."""

import sys

import _checkout  # noqa: F401

from s2s.commands.export import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
