"""Code behind the commands: a study, its plan and its progress, tables of weights, exit codes."""
