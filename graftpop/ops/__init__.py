"""Pure tensor mathematics: no I/O, no global random state. Only `attenuate_` and `out=` change an argument."""
