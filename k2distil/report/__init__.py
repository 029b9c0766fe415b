"""Figures and tables as one HTML page that needs nothing else; knows nothing of codes."""

from k2distil.report.page import Page
from k2distil.report.plots import bars, curves, histogram, image

__all__ = ["Page", "bars", "curves", "histogram", "image"]
