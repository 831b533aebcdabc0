"""Populations of networks that exchange weights by entropy-weighted filter grafting, tuned by Ray Tune."""

__version__ = "0.1.0"
