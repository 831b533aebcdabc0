"""Export of a network of a run: encode, decode, compare with the network, write file and README."""

import json
from dataclasses import dataclass

from graftpop.data import Splits, load_splits
from graftpop.errors import DataError, ModelError, StorageError, choose
from graftpop.exporting.checks import Measurement, check_agreement, measure, measure_on_noise
from graftpop.exporting.formats import FORMATS, Predict, check_packages
from graftpop.exporting.readme import readme_text
from graftpop.exporting.selection import SelectedNetwork, select_network
from graftpop.metrics import Metric
from graftpop.models.network_file import deployed
from graftpop.run.provenance import read_provenance
from graftpop.run.run_folder import RunFolder
from graftpop.run.storage import Folder
from graftpop.tasks.find import make_task
from graftpop.tasks.user_task import UserTask

__all__ = ["Exported", "export_network"]


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        file: path or URI, without secrets, of the network's file; `config.json` is in the same folder.
        readme: path or URI, without secrets, of the README.
        description: description of the network, one sentence.
        primary: the metric that is measured.
        measurements: measurements on the validation and test images, or on noise.
        unmeasured: error message with the reason for noise; empty if the run's data was used.
    """

    file: str
    readme: str
    description: str
    primary: Metric
    measurements: list[Measurement]
    unmeasured: str


def export_network(run: RunFolder, format: str, peer: str = "best", out: str | None = None) -> Exported:
    """Write a network of a run's best trial to a file, with a README.

    Before anything is written, the encoded file is decoded and must agree with the network: on the validation and test
    images, or on noise if the run's data is not available.

    Args:
        run: run with at least one finished round.
        format: key of `FORMATS`.
        peer: `best`, `soup`, `ensemble` or a peer's number.
        out: folder or URI; None: `export/PEER-FORMAT` of the run. An earlier export there is replaced.

    Raises:
        GraftpopError: unknown format or network, the file differs from the network, or `out` has other files.
    """
    file_format = choose(FORMATS, format, "--format", ModelError)
    check_packages(format)
    folder = Folder(out) if out is not None else Folder(run.location) / "export" / f"{peer}-{format}"
    _check_is_free(folder)
    selected = select_network(run, peer)
    content = file_format.encode(selected.network, selected.card)
    network = deployed(selected.network, selected.card, run.location)
    measurements, unmeasured = _measure(selected, network, file_format.decode(content, selected.card))
    primary = selected.settings.primary
    for measurement in measurements:
        check_agreement(measurement, primary)
    text = readme_text(selected, format, read_provenance(run), measurements, is_noise=bool(unmeasured))
    try:
        folder.create()
        folder.write(file_format.file, content)
        folder.write("config.json", json.dumps(selected.card.to_dict(), indent=2).encode())
        folder.write("README.md", text.encode())
    except OSError as error:
        raise StorageError(f"--out {folder.location}: cannot be written: {error}; choose another folder") from error
    return Exported(
        (folder / file_format.file).shown,
        (folder / "README.md").shown,
        selected.description,
        primary,
        measurements,
        unmeasured,
    )


def _check_is_free(folder: Folder) -> None:
    """Check that a folder is empty, absent or an earlier export, which may be replaced."""
    files = {file_format.file for file_format in FORMATS.values()}
    found = set(folder.names())
    if found and not (found <= {*files, "config.json", "README.md"} and found & files):
        raise StorageError(
            f"--out {folder.location}: must be empty, absent or an earlier export, got one with "
            f"{sorted(found)[0]}; choose another folder"
        )


def _measure(selected: SelectedNetwork, network: Predict, file: Predict) -> tuple[list[Measurement], str]:
    """Return the measurements on the run's data; on noise, with the reason, if the score cannot be measured."""
    task = make_task(selected.settings.task)
    if isinstance(task, UserTask) and not task.scores_outputs:
        reason = (
            f"task.name: {selected.settings.task.name} calls the network itself, so the file's outputs have no score"
        )
        return [measure_on_noise(selected.card.input_shape, network, file)], reason
    try:
        settings, card = selected.settings, selected.card
        mean_std = (card.mean, card.std) if settings.model.has_start else None
        splits = load_splits(settings.data, seed=settings.seed, task=settings.task, mean_std=mean_std)
        _check_is_same_data(splits, selected)
    except DataError as error:
        return [measure_on_noise(selected.card.input_shape, network, file)], str(error)
    return [
        measure(name, images, task, network, file) for name, images in (("val", splits.val), ("test", splits.test))
    ], ""


def _check_is_same_data(splits: Splits, selected: SelectedNetwork) -> None:
    card = selected.card
    found = (splits.class_names, splits.image_shape, splits.recipe.mean, splits.recipe.std)
    expected = (card.class_names, card.image_shape, card.mean, card.std)
    if found != expected:
        raise DataError(
            f"data: {selected.settings.data.name} must be the data that the run was trained on, got other classes, "
            f"image sizes or channel means; restore the original files"
        )
