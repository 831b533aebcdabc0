"""Loss terms added to the task's own, one per file."""
