"""`python -m graftpop.export RUN --format FORMAT`: export a network of a run, with a check and a README."""

from typing import Annotated

import typer

from graftpop.cli.exit_codes import one_line_errors, run_command

__all__ = ["export"]


@one_line_errors
def export(
    run: Annotated[str, typer.Argument(help="Folder or URI of a run.", metavar="RUN")],
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="safetensors, onnx or torch-export.", show_default=False)
    ],
    peer: Annotated[
        str,
        typer.Option(
            metavar="PEER",
            help="Peer of the best trial: best, soup (mean of all weights), ensemble (mean of all "
            "probabilities), or a number.",
        ),
    ] = "best",
    out: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Folder to write; default RUN/export/PEER-FORMAT.", show_default=False),
    ] = None,
) -> None:
    """Write a network of the best trial and its README, read it back, and check it on the test images."""
    from rich.console import Console

    from graftpop.exporting import export_network
    from graftpop.run.run_folder import RunFolder

    console = Console(highlight=False, markup=False)
    with console.status("exporting and checking"):
        exported = export_network(RunFolder(run), format, peer, out)
    lines = [f"network    {exported.description}", f"file       {exported.file}", f"readme     {exported.readme}"]
    for check in exported.measurements:
        primary = exported.primary
        score = "" if exported.unmeasured else f"{primary.label} {primary.text(check.score)}, "
        lines.append(
            f"{check.images:<10} {score}{check.num_images:,} images, differs by {check.difference:.1e} at most"
        )
    if exported.unmeasured:
        lines.append(f"{exported.primary.label:<10} not measured: {exported.unmeasured}")
    for line in lines:
        console.print(line, soft_wrap=True)


if __name__ == "__main__":
    run_command(export)
