"""Pure tensor mathematics: no input or output, no global random state, no change to an argument."""
