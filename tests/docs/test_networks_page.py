"""docs/networks.md has the rows that its command would write."""

from pathlib import Path

import pytest

pytest.importorskip("timm")

from networks import COLUMNS, sites_row

PAGE = Path(__file__).parents[2] / "docs/networks.md"
LINES = PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "name", ["torchvision:squeezenet1_1", "torchvision:vit_b_16", "timm:lcnetv2_base", "timm:levit_128"]
)
def test_row_has_the_networks_sites(name: str) -> None:
    assert sites_row(name).line in LINES


def test_every_accepted_network_has_an_alpha_for_nearly_all_parameters() -> None:
    rows = [line.strip("| ").split(" | ") for line in LINES if line.startswith(("| `torchvision:", "| `timm:"))]
    accepted = [row for row in rows if not row[-1].startswith("refused: ")]
    assert len(accepted) >= 230
    assert min(float(row[COLUMNS.index("`all`")]) for row in accepted) >= 0.95
