"""Tasks: what networks learn and how they are scored, one per file."""
