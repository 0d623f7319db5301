"""Average the last checkpoints of a run: ``s2s average`` for a checkout that is not installed."""

import sys

import _checkout  # noqa: F401

from s2s.commands.average import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
