"""A case becomes a report. Pure: the same case makes the same report, byte for byte."""

from services.results.assembly.build import assemble

__all__ = ["assemble"]
