"""Find the sites of every image classifier of torchvision and of many of timm, and write docs/networks.md.

    python benchmarks/networks.py [--models timm:vit_tiny_patch16_224 ...]

The networks are those of `torchvision.models.list_models(module=torchvision.models)`, and for each family in
`timm.list_modules()` the first, the middle and the last of `timm.list_models(module=FAMILY)`. Each is built by its name
as in a space, with 1,000 classes, and passes the checks of a study. It runs on two images of its own default size, on
the meta device, which needs no memory for weights. A network whose construction needs numbers is built on the CPU and
moved there.

Prints a row per network, and one line of JSON with the smallest share of the parameters that have an alpha of their
own. With --models, only these networks are tried, and no file is written.
"""

import argparse
import gc
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, get_args

import torch
from torch import nn

from graftpop.errors import GraftpopError, describe_exception
from graftpop.models.catalog import TIMM, TORCHVISION, find_model
from graftpop.models.forward_check import check_forward
from graftpop.run.provenance import run_provenance
from graftpop.sites import alpha_share, find_sites
from graftpop.sites.find import ENOUGH
from graftpop.sites.site import SiteKind

PAGE: Final = Path(__file__).parents[1] / "docs/networks.md"
NUM_CLASSES: Final = 1000
SIDE: Final = 224
KINDS: Final = get_args(SiteKind)
WANTED: Final = 0.95
COLUMNS: Final = ("network", "image", *KINDS, "`all`", "`conv_bn`", "`auto`")

INTRODUCTION: Final = """\
# Networks

The sites of {networks} image classifiers. `graftpop` finds them by running the network, see `graft.sites` in
[the keys](keys.md#graft). Your own network needs no registration: [supported networks](library.md#networks).
Set sizes and rates by [arguments](library.md#arguments); start from published weights by
[fine-tuning](library.md#fine-tuning).

{summary}
Columns of the table below: height and width of the images; number of sites by kind; share of the parameters that have
an alpha of their own with `graft.sites: all` and with `conv_bn`; the choice of `auto`. The other parameters, such as
scales and class tokens, use the alpha of the site before them. Query, key and value are three sites if their matrix
stores them one after the other. A *table* is any other tensor with at least two axes: positions, embeddings, weights of
recurrent layers.

`python benchmarks/networks.py` writes this page. It tries every classifier of torchvision {torchvision}, and of each
family of timm {timm} the first, the middle and the last name. Run of {date} with torch {torch}.

"""


@dataclass(frozen=True)
class Row:
    """The sites of one network.

    Attributes:
        name: name of the network in a space.
        image: height and width of the images.
        num_sites: number of sites by kind.
        share: share of the parameters with an alpha of their own under `all`.
        share_conv_bn: the same under `conv_bn`.
        reason: the error if the network was refused.
    """

    name: str
    image: tuple[int, ...] = ()
    num_sites: tuple[int, ...] = (0,) * len(KINDS)
    share: float = 0.0
    share_conv_bn: float = 0.0
    reason: str = ""

    @property
    def line(self) -> str:
        """The row of the table, in Markdown."""
        if self.reason:
            return _table_line([f"`{self.name}`", *[""] * (len(COLUMNS) - 2), f"refused: {self.reason}"])
        shares = [f"{share:.4f}" for share in (self.share, self.share_conv_bn)]
        auto = "conv_bn" if self.share_conv_bn >= ENOUGH else "all"
        return _table_line([f"`{self.name}`", "x".join(map(str, self.image)), *map(str, self.num_sites), *shares, auto])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME")
    given = parser.parse_args()
    torch.set_num_threads(1)
    facts = run_provenance([], 0)
    head = [_table_line(COLUMNS), _table_line(["---"] * len(COLUMNS))]
    print(*head, sep="\n", flush=True)
    rows = []
    for name in given.models or chosen_names():
        rows.append(sites_row(name))
        print(rows[-1].line, flush=True)
        gc.collect()
    accepted = [row for row in rows if not row.reason]
    smallest = min(accepted, key=lambda row: row.share, default=None)
    found = {
        "networks": len(rows),
        "accepted": len(accepted),
        "smallest_share": smallest and round(smallest.share, 4),
        "network": smallest and smallest.name,
    }
    if not given.models:
        introduction = INTRODUCTION.format(
            networks=len(rows),
            summary=_summary(rows),
            date=facts["started"][:10],
            **{package: version(package) for package in ("torch", "torchvision", "timm")},
        )
        PAGE.write_text(introduction + "\n".join([*head, *(row.line for row in rows), ""]), encoding="utf-8")
    print(
        json.dumps(
            {
                "name": "networks",
                **found,
                "unit": "share of the parameters with an alpha of their own",
                "wanted": WANTED,
                "hardware": facts["hardware"],
                "git": facts["git"],
                "versions": facts["versions"] | {"timm": version("timm")},
                "refused": {row.name: row.reason for row in rows if row.reason},
            }
        ),
        flush=True,
    )


def chosen_names() -> list[str]:
    """Return the names of all networks of the table."""
    import timm
    import torchvision

    names = [TORCHVISION + name for name in torchvision.models.list_models(module=torchvision.models)]
    for family in timm.list_modules():
        variants = timm.list_models(module=family)
        names += [TIMM + variants[place] for place in sorted({0, len(variants) // 2, len(variants) - 1})]
    return names


def sites_row(name: str) -> Row:
    """Return the row of a network, by its name in a space."""
    try:
        network = _built(name)
        shape = getattr(network, "default_cfg", {}).get("input_size", (3, SIDE, SIDE))  # timm states it
        with torch.device("meta"):
            check_forward(network, shape, NUM_CLASSES, name)
            sites = find_sites(network, shape, name, "all")
    except GraftpopError as error:
        return Row(name, reason=str(error).removeprefix(f"{name} "))
    except Exception as error:  # the row shows it, and the next network is tried
        return Row(name, reason=describe_exception(error))
    counts = Counter(site.kind for site in sites)
    return Row(
        name,
        shape[1:],
        tuple(counts[kind] for kind in KINDS),
        alpha_share(network, sites),
        alpha_share(network, [site for site in sites if site.is_conv_bn]),
    )


def _built(name: str) -> nn.Module:
    build = find_model(name)
    try:
        with torch.device("meta"):
            return build(NUM_CLASSES)
    except NotImplementedError:  # its constructor reads numbers from a tensor
        return build(NUM_CLASSES).to("meta")


def _summary(rows: Sequence[Row]) -> str:
    columns = (
        "",
        "networks",
        "accepted",
        "smallest share",
        "below 0.95",
        "`auto` is `conv_bn`",
        "with split attention",
    )
    lines = [_table_line(columns), _table_line(["---"] * len(columns))]
    for library, prefix in (("torchvision", TORCHVISION), ("timm", TIMM)):
        tried = [row for row in rows if row.name.startswith(prefix)]
        accepted = [row for row in tried if not row.reason]
        numbers = (
            len(tried),
            len(accepted),
            f"{min(row.share for row in accepted):.4f}",
            sum(row.share < WANTED for row in accepted),
            sum(row.share_conv_bn >= ENOUGH for row in accepted),
            sum(row.num_sites[KINDS.index("attention")] > 0 for row in accepted),
        )
        lines.append(_table_line([library, *map(str, numbers)]))
    refused = [f"`{row.name}`" for row in rows if row.reason]
    if refused:
        lines += ["", f"Refused, with the reason in the table: {', '.join(refused)}."]
    return "\n".join([*lines, ""])


def _table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    main()
