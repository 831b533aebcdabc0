"""Parts that the commands share: progress, tables of weights, exit codes."""
