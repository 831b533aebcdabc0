"""Pure tensor mathematics: no I/O, no global random state; only names with `_` and `out` change an argument."""
