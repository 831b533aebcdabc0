"""Loss terms beside the task's own, one per file."""
