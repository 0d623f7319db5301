"""Distances of texts by optimal transport between token vectors: WMD, WRD and Sinkhorn."""
