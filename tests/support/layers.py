"""The layers of the package, whose imports go down only."""

__all__ = ["LAYERS"]

LAYERS = (
    ("spaces", "init", "tune", "report", "inspect", "export", "__main__"),
    ("api", "results"),
    ("integrations",),
    ("cli",),
    ("cluster",),
    ("exporting",),
    ("reporting",),
    ("comparison",),
    ("study",),
    ("run",),
    ("space",),
    ("population",),
    ("peer",),
    ("exchange",),
    ("losses",),
    ("hooks",),
    ("training",),
    ("sites",),
    ("tasks",),
    ("models",),
    ("data",),
    ("settings", "ops"),
    ("seeds",),
    ("rows",),
    ("metrics",),
    ("user_code",),
    ("shipped_spaces",),
    ("errors",),
    ("masking",),
)
"""Modules and folders of graftpop from top to bottom; each may import from layers below and from its own folder."""
