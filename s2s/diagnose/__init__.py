"""Measurements of exposure bias: what a model loses where its prefix is no longer gold, and how sure that is.

Each module is one measure, on a model in evaluation mode, its vocabulary and pairs of ids: ``recovery`` from corrupted
prefixes, ``gap`` between teacher forcing and free running, ``search_errors``, ``calibration``, ``mismatch``,
``margin`` and ``oracle``. Their results are sums a sentence, which ``statistics`` tests.
"""
