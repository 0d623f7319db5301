"""The report of a diagnosis as one page that needs nothing else: no network, no other file."""

from s2s.report.rendering import page

__all__ = ["page"]
