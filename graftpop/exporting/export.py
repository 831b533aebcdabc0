"""Export of a network: select, encode, check against the original, write with its card."""

import json
from dataclasses import dataclass

from graftpop.data import Splits, load_splits
from graftpop.errors import DataError, ModelError, StorageError, choose
from graftpop.exporting.checks import Measured, check_alike, measure, measure_on_noise
from graftpop.exporting.formats import FORMATS, Predict, check_packages
from graftpop.exporting.model_card import card_text
from graftpop.exporting.selection import SelectedNetwork, select_network
from graftpop.run.storage import Folder
from graftpop.run.tables import RunFolder

__all__ = ["Exported", "export_network"]


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        file: path of the network's file; `config.json` is in the same folder.
        card: path of the model card.
        what: the network in one sentence.
        measured: comparisons of file and network on validation and test images, or on noise.
        unmeasured: the reason for noise; empty otherwise.
    """

    file: str
    card: str
    what: str
    measured: list[Measured]
    unmeasured: str


def export_network(run: RunFolder, format: str, peer: str = "best", out: str | None = None) -> Exported:
    """Export a network of a run's best trial, with a model card.

    Before writing, the file is read back and compared with the network, on validation and test images, or on noise
    if the run's data is missing.

    Args:
        run: a run with at least one finished round.
        format: a key of FORMATS.
        peer: `best`, `soup`, `ensemble` or a peer's number.
        out: folder or URI; None for `export/PEER-FORMAT` in the run. An earlier export there is replaced.

    Raises:
        GraftpopError: no such format or network, the file differs from the network, or `out` holds something else.
    """
    chosen_format = choose(FORMATS, format, "--format", ModelError)
    check_packages(format)
    folder = Folder(out) if out is not None else Folder(run.location) / "export" / f"{peer}-{format}"
    _check_is_free(folder)
    chosen = select_network(run, peer)
    content = chosen_format.encode(chosen.network, chosen.card)
    measured, unmeasured = _measured(chosen, chosen_format.decode(content, chosen.card))
    for one in measured:
        check_alike(one)
    facts = json.loads(run.read_text("run.json"))
    text = card_text(chosen, format, facts, measured, is_noise=bool(unmeasured))
    try:
        folder.create()
        folder.write(chosen_format.file, content)
        folder.write("config.json", json.dumps(chosen.card, indent=2).encode())
        folder.write("README.md", text.encode())
    except OSError as error:
        raise StorageError(f"--out {folder.location}: cannot be written: {error}; choose another folder") from error
    return Exported(
        (folder / chosen_format.file).location, (folder / "README.md").location, chosen.what, measured, unmeasured
    )


def _check_is_free(folder: Folder) -> None:
    """Check that a folder is empty or holds an earlier export."""
    files = {one.file for one in FORMATS.values()}
    found = set(folder.names())
    if found and not (found <= {*files, "config.json", "README.md"} and found & files):
        raise StorageError(
            f"--out {folder.location}: must be empty, absent or an earlier export, got one with "
            f"{sorted(found)[0]}; choose another folder"
        )


def _measured(chosen: SelectedNetwork, file: Predict) -> tuple[list[Measured], str]:
    try:
        splits = load_splits(chosen.settings.data, seed=chosen.settings.seed)
        _check_is_same_data(splits, chosen)
    except DataError as error:
        return [measure_on_noise(tuple(chosen.card["image_shape"]), chosen.network, file)], str(error)
    return [
        measure(name, images, chosen.network, file) for name, images in (("val", splits.val), ("test", splits.test))
    ], ""


def _check_is_same_data(splits: Splits, chosen: SelectedNetwork) -> None:
    card = chosen.card
    found = (splits.class_names, splits.image_shape, splits.recipe.mean, splits.recipe.std)
    expected = tuple(tuple(card[key]) for key in ("class_names", "image_shape", "mean", "std"))
    if found != expected:
        raise DataError(
            f"data: {chosen.settings.data.name} must be the data of the run, got other classes, "
            f"sizes or colors; restore the run's data"
        )
