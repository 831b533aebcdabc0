"""Export of a trained network to a file format, with a README and a check against the network."""

from graftpop.exporting.export import Exported, export_network

__all__ = ["Exported", "export_network"]
