"""The diagnosis of exposure bias: what a model loses once its prefix is no longer gold, and how sure that is.

``passes`` runs a model over the examples and keeps the results. One module a measure turns them into numbers:
``recovery`` from corrupted prefixes, the ``gap`` between teacher forcing and free running, the ``texts`` themselves,
``margin``, ``calibration``, ``search_errors``, ``hallucination``, and the error that accumulates against an ``oracle``.
``comparison`` tests methods against each other, ``record`` collects everything, and ``report`` draws the page.
"""
