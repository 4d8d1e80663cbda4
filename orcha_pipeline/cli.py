"""The `orcha` command."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from orcha_pipeline.errors import OrchaError

app = typer.Typer(
    name="orcha",
    help="Re-divides a machine between DePIN nodes by what each of them earns.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # it would print local values, and one of them may be a token
)
prices_app = typer.Typer(help="Token prices.", no_args_is_help=True)
testnet_app = typer.Typer(help="The emulated nodes.", no_args_is_help=True)
app.add_typer(prices_app, name="prices")
app.add_typer(testnet_app, name="testnet")

Config = Annotated[Path | None, typer.Option("--config", help="orcha.toml to use.", envvar="ORCHA_CONFIG")]
console = Console()


@app.command()
def up(
    *,
    once: Annotated[bool, typer.Option("--once", help="Leave after the first full cycle.")] = False,
    config: Config = None,
) -> None:
    """Start everything, reach a decision, and stay on watch until Ctrl-C."""
    from orcha_pipeline.installation import open_installation
    from orcha_pipeline.up import up as run

    try:
        run(open_installation(config), console, config=config, once=once)
    except KeyboardInterrupt:  # the ordinary way to end it
        console.print("Everything is stopped.")


@app.command()
def init(path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("orcha.toml")) -> None:
    """Write a commented orcha.toml to fill in."""
    from orcha_pipeline.settings_file import write_example

    write_example(path)
    console.print(f"Wrote {path}. Fill in your nodes, then run `orcha up`.")


@app.command()
def decision(*, config: Config = None) -> None:
    """Show the last decision of every host, why it was taken and what came of it."""
    from orcha_pipeline.decision_view import print_latest
    from orcha_pipeline.installation import open_installation

    installation = open_installation(config)
    print_latest(console, installation.warehouse, installation)


@prices_app.command("import")
def import_prices(
    file: Annotated[Path, typer.Argument(help="CSV (also .gz) or Parquet with the columns unique_id, ds, y.")],
    *,
    config: Config = None,
) -> None:
    """Load hourly token prices into the warehouse."""
    from orcha_pipeline.installation import open_installation
    from orcha_pipeline.prices import read_price_file
    from orcha_pipeline.warehouse.facts import record_prices

    installation = open_installation(config)
    with console.status(f"Reading {file}"):
        prices = read_price_file(file)
    installation.warehouse.migrate()
    with console.status(f"Writing {len(prices):,} prices"), installation.warehouse.write() as connection:
        rows = record_prices(connection, prices)
    tokens = ", ".join(sorted({price.token for price in prices}))
    first, last = min(p.observed_at for p in prices), max(p.observed_at for p in prices)
    console.print(f"Loaded {rows:,} prices of {tokens}, {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC.")


@testnet_app.command("serve")
def serve_testnet(
    *,
    state: Annotated[Path, typer.Option(help="Folder for its state and the nodes' own files.")] = Path(
        ".orcha/testnet"
    ),
    port: Annotated[int, typer.Option(help="Port on loopback.")] = 8414,
    seed: Annotated[int, typer.Option(help="Which world.")] = 1,
    world: Annotated[Path | None, typer.Option(help="A world folder to play instead of the seeded one.")] = None,
    prices: Annotated[Path | None, typer.Option(help="Hourly token prices to play (unique_id, ds, y).")] = None,
    start: Annotated[datetime | None, typer.Option(help="Where its clock starts (UTC) in a new state folder.")] = None,
) -> None:
    """Run the emulated nodes alone, on loopback."""
    from datetime import UTC

    from orcha_pipeline.testnet.server import serve

    begin = None if start is None else start.replace(tzinfo=UTC)
    console.print(f"The testnet answers at http://127.0.0.1:{port}. Everything it serves is simulated.")
    serve(state=state, port=port, seed=seed, world=world, prices=prices, start=begin, restart_seconds=None)


def main() -> None:
    """Run the command; a mistake of the user's ends with its message alone."""
    try:
        app(standalone_mode=True)
    except OrchaError as error:
        Console(stderr=True).print("[red]✗[/]", Text(str(error)), highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
