"""A local page and a JSON interface to runs: ``python -m s2s.serve run=FOLDER[,FOLDER ...]``."""
