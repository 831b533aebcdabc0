"""Code shared by the commands: progress, tables of weights, exit codes."""
