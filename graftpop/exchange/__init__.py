"""Exchange rules, one per file: how a receiver changes its weights, given its donors' snapshots."""
