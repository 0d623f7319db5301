"""The report of a diagnosis as one page that needs nothing else: no network, no other file."""

from s2s.diagnose.report.page import page

__all__ = ["page"]
