"""`hybridnas COMMAND`: the commands under one name. `hybridnas search` is `python -m hybridnas.search`."""

from __future__ import annotations

import typer

from hybridnas.cli import run
from hybridnas.dashboard import dashboard
from hybridnas.export.__main__ import export
from hybridnas.predict import predict
from hybridnas.profile import profile
from hybridnas.recommend import recommend
from hybridnas.replay import replay
from hybridnas.report.__main__ import report
from hybridnas.search import search
from hybridnas.table import app as table_app
from hybridnas.train import train
from hybridnas.trust import trust

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Hybrid-architecture search for your data and your device.",
)
app.command("search")(search)
app.command("dashboard")(dashboard)
app.command("profile")(profile)
app.command("export")(export)
app.command("predict")(predict)
app.command("recommend")(recommend)
app.command("replay")(replay)
app.command("report")(report)
app.command("train")(train)
app.command("trust")(trust)
app.add_typer(table_app, name="table")


def main() -> None:
    """Entry point of the `hybridnas` script."""
    run(app)


if __name__ == "__main__":
    main()
