"""A study without Ray: its trials, samplers, preflight checks and Optuna storage."""
