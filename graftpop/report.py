"""`python -m graftpop.report RUN...`: write the report of one or several runs from their tables."""

from pathlib import Path
from typing import Annotated

import typer

from graftpop.cli.exit_codes import one_line_errors, run_command
from graftpop.errors import SpaceError, StorageError

__all__ = ["report"]


@one_line_errors
def report(
    runs: Annotated[
        list[str], typer.Argument(help="Folder or URI of a run; several runs are compared.", metavar="RUN")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of the page; default RUN/report.html, or runs.html for several runs.", show_default=False
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of a comparison; write no file.")
    ] = False,
) -> None:
    """Write the report of one run, or of several runs side by side, as one self-contained page."""
    from graftpop.run.run_folder import RunFolder

    folders = [RunFolder(run) for run in runs]
    for folder in folders:
        folder.check_is_run()
    if markdown and (out is not None or len(folders) > 1):
        raise SpaceError(
            f"--markdown: prints the comparison of one run, got {len(folders)} runs"
            f"{' and --out' if out else ''}; give one RUN alone"
        )
    from graftpop.reporting.run_page import read_report_html, report_markdown, write_report
    from graftpop.reporting.side_by_side import several_runs_html

    if markdown:
        print(report_markdown(folders[0]))
    elif len(folders) == 1 and out is None:
        write_report(folders[0])
        print(f"{folders[0].shown}/report.html")
    else:
        where = out or Path("runs.html")
        html = read_report_html(folders[0]) if len(folders) == 1 else several_runs_html(folders)
        try:
            where.write_text(html, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"--out {where}: cannot be written: {error.strerror}; choose another file") from error
        print(where)


if __name__ == "__main__":
    run_command(report)
