"""Grafting within other people's training loops."""
