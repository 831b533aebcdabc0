"""Files generated from the settings; `python tests/support/generated_files.py` rewrites them."""

from pathlib import Path

from graftpop.space.commented_yaml import commented_yaml
from graftpop.space.json_schema import schema_text, space_schema
from graftpop.space.key_reference import keys_markdown
from graftpop.space.yaml_tree import read_sections, with_defaults

__all__ = ["generated_files"]

ROOT = Path(__file__).parents[2]


def generated_files() -> dict[str, str]:
    """Return the contents of the generated files by their path in the repository."""
    cifar = (ROOT / "search_spaces/cifar.yaml").read_text(encoding="utf-8")
    tree = with_defaults(read_sections(cifar, "search_spaces/cifar.yaml"))
    return {
        "search_spaces/cifar.yaml": commented_yaml(tree, head=cifar.partition("\n\n")[0]),
        "docs/keys.md": keys_markdown(),
        "search_spaces/schema.json": f"{schema_text(space_schema())}\n",
    }


if __name__ == "__main__":
    for name, text in generated_files().items():
        (ROOT / name).write_text(text, encoding="utf-8")
