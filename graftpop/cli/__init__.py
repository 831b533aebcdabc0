"""What the commands do and print: a study, its plan and its progress, tables of weights, exit codes."""
