"""`python -m graftpop.export RUN --format FORMAT`: take a network of a run home, checked and with a model card."""

from typing import Annotated

import typer

from graftpop.cli.exit_codes import one_line_errors

__all__ = ["export", "main"]


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
            help="Of the best trial: best, soup (mean of all weights), ensemble (mean of all "
            "probabilities), or a number.",
        ),
    ] = "best",
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where to; default RUN/export/PEER-FORMAT.", show_default=False)
    ] = None,
) -> None:
    """Write a network of the best trial, read it back, check it on the test images, and write its card."""
    from rich.console import Console

    from graftpop.exporting import export_network
    from graftpop.run.tables import RunFolder

    console = Console(highlight=False, markup=False)
    with console.status("exporting, and checking what was exported"):
        exported = export_network(RunFolder(run), format, peer, out)
    lines = [f"network    {exported.what}", f"file       {exported.file}", f"card       {exported.card}"]
    for one in exported.measured:
        accuracy = "" if exported.unmeasured else f"accuracy {100 * one.accuracy:.2f} %, "
        lines.append(f"{one.images:<10} {accuracy}{one.num_images:,} images, differs by {one.difference:.1e} at most")
    if exported.unmeasured:
        lines.append(f"accuracy   not measured: {exported.unmeasured}")
    for line in lines:
        console.print(line, soft_wrap=True)


def main() -> None:
    """Run the command line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(export)
    app(prog_name="python -m graftpop.export")


if __name__ == "__main__":
    main()
