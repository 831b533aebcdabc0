"""`python -m graftpop.report RUN`: write the report of a run anew from its tables, or print its comparison."""

from typing import Annotated

import typer

from graftpop.commands import one_line_errors

__all__ = ["main", "report"]


@one_line_errors
def report(
    run: Annotated[str, typer.Argument(help="Folder or URI of a run.", metavar="RUN")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of a comparison, and write nothing."),
                        ] = False,
) -> None:
    """Write RUN/report.html, one self-contained page."""
    from graftpop.records import RunFolder
    from graftpop.report_page import report_markdown, write_report

    folder = RunFolder(run)
    folder.check_is_run()
    if markdown:
        print(report_markdown(folder))
        return
    write_report(folder)
    print(f"{folder.location}/report.html")


def main() -> None:
    """Run the command line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(report)
    app(prog_name="python -m graftpop.report")


if __name__ == "__main__":
    main()
