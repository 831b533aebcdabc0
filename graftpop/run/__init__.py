"""The files of a run: storage, tables, checkpoints, provenance."""
