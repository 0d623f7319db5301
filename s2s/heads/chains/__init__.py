"""Linear chains of labels: CRF, MEMM, their likelihoods and best paths."""
