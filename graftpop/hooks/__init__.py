"""Methods that act on a network between epochs, one per file."""
