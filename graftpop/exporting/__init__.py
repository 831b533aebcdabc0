"""Export of a trained network in a chosen format, with a model card, checked against the original."""

from graftpop.exporting.export import Exported, export_network

__all__ = ["Exported", "export_network"]
