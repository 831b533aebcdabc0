"""Search spaces that ship with the package: listed, found by name, copied by `graftpop init --from`."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from commands import graftpop
from typer.testing import CliRunner

from graftpop.__main__ import app
from graftpop.errors import SpaceError
from graftpop.space import load_space
from graftpop.space.keys import keys_named

ROOT = Path(__file__).parents[2]
FILES = {
    str(file.relative_to(ROOT / "search_spaces").with_suffix("")): file
    for file in (ROOT / "search_spaces").rglob("*.yaml")
}


pytestmark = pytest.mark.usefixtures("empty_folder")


def test_every_space_is_listed_on_one_line_with_the_beginning_of_its_comment() -> None:
    listed = dict(line.split(maxsplit=1) for line in graftpop("spaces").stdout.splitlines())
    assert listed.keys() == FILES.keys()
    for name, summary in listed.items():
        comment = re.sub(r"\n# ", " ", FILES[name].read_text(encoding="utf-8").partition("\n# ")[2])
        assert comment.startswith((f"{summary}. ", f"{summary}.\n"))


@pytest.mark.parametrize("name", ["digits", "papers/soft_pruning"])
def test_space_is_found_by_its_name(name: str) -> None:
    assert load_space(name) == load_space(FILES[name])


def test_file_of_the_same_name_wins_and_a_folder_does_not(empty_folder: Path) -> None:
    (empty_folder / "digits").mkdir()
    assert load_space("digits").resolve().name == "digits-grafting"
    (empty_folder / "cifar").write_text("name: mine", encoding="utf-8")
    assert load_space("cifar").resolve().name == "mine"


@pytest.mark.parametrize("path", ["digit", "search_spaces/digits.yaml", "digits.yaml"])
def test_path_of_no_file_is_refused_with_the_closest_name(path: str) -> None:
    with pytest.raises(SpaceError, match=f"^{path}: .*'digits'"):
        load_space(path)


def test_space_whose_code_is_in_a_checkout_only_is_refused_outside(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [path for path in sys.path if Path(path or ".").absolute() != ROOT])
    for module in [name for name in sys.modules if name.split(".")[0] == "search_spaces"]:  # by other tests
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(SpaceError, match=r"^evidence/saturated: .*search_spaces\.evidence\.controls"):
        load_space("evidence/saturated")
    monkeypatch.chdir(ROOT)
    assert load_space("evidence/saturated").variants


def test_file_is_an_argument_or_an_option_of_tune() -> None:
    Path("held").mkdir()
    Path("held/space.yaml").touch()
    for arguments in (["digits"], ["--space", "digits"]):
        refused = graftpop("tune", *arguments, "--out", "held")  # the last check of many
        assert (refused.exit_code, refused.stdout.split()) == (2, ["checking", "digits"])
        assert refused.stderr.startswith("error: --out ")
    both = graftpop("tune", "digits", "--space", "cifar")
    assert (both.exit_code, both.stdout) == (2, "")
    assert re.match("error: --space: .*cifar.*digits", both.stderr)


@pytest.mark.parametrize(
    ("arguments", "hints"),
    [
        (["--epochs", "3"], ["--set training.epochs=3"]),
        (["--num-peers=4", "--dry-run"], ["--set population.num_peers=4"]),
        (["--lr", "{choice: [0.1, 0.2]}"], ["--set 'training.lr={choice: [0.1, 0.2]}'", "--set 'swa.lr={"]),
        (["--model", "resnet20"], ["--set model.name=resnet20"]),
        (["--optimizer", "adam"], ["--set training.optimizer.name=adam"]),
        (["--graft.A", "0.4"], ["--set graft.A=0.4"]),
        (["--patience", "--dry-run"], ["--set training.patience=VALUE"]),
    ],
)
def test_option_named_like_a_key_is_refused_with_its_set_option(arguments: list[str], hints: list[str]) -> None:
    refused = graftpop("tune", "--space", "digits", *arguments)
    assert isinstance(refused.exception, SpaceError)
    assert str(refused.exception).startswith(f"{arguments[0].partition('=')[0]}: ")
    assert [hint for hint in hints if hint not in str(refused.exception)] == []


def test_other_unknown_option_is_refused_as_such() -> None:
    refused = graftpop("tune", "--space", "digits", "--elsewhere", "3")
    assert refused.exit_code == 2
    assert "--elsewhere" in refused.stderr
    assert "--set elsewhere" not in refused.stderr
    assert not keys_named("elsewhere")


def test_copy_of_a_space_is_the_same_study_with_a_schema_beside_it(empty_folder: Path) -> None:
    copied = graftpop("init", "--from", "papers/clr_rnf", "mine.yaml")
    assert copied.exit_code == 0, copied.stderr
    lines = (empty_folder / "mine.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# yaml-language-server: $schema=mine.schema.json"
    shipped = FILES["papers/clr_rnf"].read_text(encoding="utf-8")
    assert lines[1:] == shipped.replace("search_spaces/papers/clr_rnf.yaml", "mine.yaml").splitlines()[1:]
    assert (empty_folder / "mine.schema.json").is_file()
    assert yaml.safe_load("\n".join(lines))
    refused = graftpop("init", "--from", "digit", "other.yaml")
    assert (refused.exit_code, Path("other.yaml").exists()) == (2, False)
    assert re.match("error: --from: .*'digit'.*'digits'", refused.stderr)


def test_shell_completes_names_of_spaces() -> None:
    for words in ("graftpop tune --space di", "graftpop tune di", "graftpop init --from di"):
        asked = {"_GRAFTPOP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        assert CliRunner().invoke(app, [], prog_name="graftpop", env=asked).stdout.split() == ["digits"]
