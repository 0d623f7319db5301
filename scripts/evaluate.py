"""Score files of hypotheses: ``s2s evaluate`` for a checkout that is not installed."""

import sys

import _checkout  # noqa: F401

from s2s.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
