"""Files generated from the settings and the rows; `python tests/support/generated_files.py` rewrites them."""

import re
from pathlib import Path
from typing import get_type_hints

from generators.commented_yaml import commented_yaml
from generators.json_schema import schema_text, space_schema
from generators.key_reference import keys_markdown

from graftpop.rows import METRIC, ROWS
from graftpop.space.yaml_text import read_sections
from graftpop.space.yaml_tree import with_defaults

__all__ = ["generated_files"]

ROOT = Path(__file__).parents[2]
FIRST, CIFAR = "search_spaces/first.yaml", "search_spaces/cifar.yaml"


def generated_files() -> dict[str, str]:
    """Return the contents of the generated files by their path in the repository."""
    first, cifar = ((ROOT / name).read_text(encoding="utf-8") for name in (FIRST, CIFAR))
    return {
        FIRST: commented_yaml(read_sections(first, FIRST), head=first.partition("\n\n")[0]),
        CIFAR: commented_yaml(with_defaults(read_sections(cifar, CIFAR)), head=cifar.partition("\n\n")[0]),
        "docs/keys.md": keys_markdown(),
        "docs/records.md": _records_page(),
        "search_spaces/schema.json": f"{schema_text(space_schema())}\n",
    }


def _records_page() -> str:
    """Return docs/records.md with the columns of the rows below its own lines of IDs, statuses and searched keys."""
    page = (ROOT / "docs/records.md").read_text(encoding="utf-8")
    for name, row in ROWS.items():
        hints = get_type_hints(row, include_extras=True)
        lines = "".join(f"| `{column}` | {hint.__metadata__[0]} |\n" for column, hint in hints.items())
        columns = lines.replace(METRIC, "accuracy")
        own = rf"\n## {name}\.parquet\n.*?\| `trial_id` .*?\n(?:\| `status` .*?\n\| \*searched keys\* .*?\n)?"
        page = re.sub(rf"({own})(?:\|.*?\n)*", r"\1" + columns, page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    for name, text in generated_files().items():
        (ROOT / name).write_text(text, encoding="utf-8")
