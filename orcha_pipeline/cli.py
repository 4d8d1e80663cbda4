"""The `orcha` command."""

import logging
import sys
from datetime import datetime
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from orcha_pipeline.anomalies.history_commands import anomalies_app
from orcha_pipeline.errors import OrchaError
from orcha_pipeline.testnet.worlds import WorldKind

if TYPE_CHECKING:
    from orcha_pipeline.installation import Installation

app = typer.Typer(
    name="orcha",
    help="Re-divides a machine between DePIN nodes by what each of them earns.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # it would print local values, and one of them may be a token
)
prices_app = typer.Typer(help="Token prices.", no_args_is_help=True)
nodes_app = typer.Typer(help="The configured nodes: list them (the default), check them, read one.")
testnet_app = typer.Typer(help="The emulated nodes.", no_args_is_help=True)
app.add_typer(nodes_app, name="nodes")
app.add_typer(prices_app, name="prices")
app.add_typer(testnet_app, name="testnet")
world_app = typer.Typer(help="Worlds for the testnet and for backtests.", no_args_is_help=True)
testnet_app.add_typer(world_app, name="world")
backtest_app = typer.Typer(help="What would have been done, measured on the past.", no_args_is_help=True)
app.add_typer(backtest_app, name="backtest")
models_app = typer.Typer(help="The forecasting models: list them (the default), check, promote, roll back.")
app.add_typer(models_app, name="models")
alerts_app = typer.Typer(help="Alerts: list the open ones (the default), acknowledge, resolve, test the channels.")
app.add_typer(alerts_app, name="alerts")
app.add_typer(anomalies_app, name="anomalies")

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
    _tell_pause(installation)
    print_latest(console, installation.warehouse, installation)


def _tell_pause(installation: "Installation") -> None:
    """Say on a screen that changes are paused, where they are."""
    from orcha_pipeline.permission_commands import pause_line

    if told := pause_line(installation):
        console.print(Text(told, style="bold yellow"))


Who = Annotated[str | None, typer.Option("--who", help="Who decided it; you, without it.")]


@app.command()
def approve(
    decision_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="A decision's id, or how it begins; the only one that waits, without it."),
    ] = None,
    *,
    who: Who = None,
    config: Config = None,
) -> None:
    """Let a decision in mode confirm be carried out."""
    from orcha_pipeline.installation import open_installation
    from orcha_pipeline.permission_commands import approve as run

    console.print(run(open_installation(config), decision_id, who=who or getuser()), highlight=False)


@app.command()
def pause(
    *,
    why: Annotated[str, typer.Option("--why", help="The reason, shown on every screen.")] = "",
    who: Who = None,
    config: Config = None,
) -> None:
    """Stop all changes at once, until `orcha resume`."""
    from orcha_pipeline.installation import open_installation
    from orcha_pipeline.permission_commands import pause as run

    console.print(run(open_installation(config), who=who or getuser(), why=why), highlight=False)


@app.command()
def resume(*, who: Who = None, config: Config = None) -> None:
    """Let changes go on after `orcha pause`."""
    from orcha_pipeline.installation import open_installation
    from orcha_pipeline.permission_commands import resume as run

    console.print(run(open_installation(config), who=who or getuser()), highlight=False)


@app.command()
def unfreeze(
    nodes: Annotated[list[str], typer.Argument(help="Nodes that could not be set back, once you have done it.")],
    *,
    who: Who = None,
    config: Config = None,
) -> None:
    """Let nodes be changed again that Orcha leaves alone since it could not take a change back."""
    from orcha_pipeline.installation import open_installation
    from orcha_pipeline.permission_commands import unfreeze as run

    console.print(run(open_installation(config), nodes, who=who or getuser()), highlight=False)


@app.command()
def doctor(
    *,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list of part, status and text.")] = False,
) -> None:
    """Check that what is on record is consistent and the nodes stand where it says; change nothing."""
    from orcha_pipeline.doctor import doctor_view, examine
    from orcha_pipeline.nodes_check import Status
    from orcha_pipeline.nodes_json import as_text, findings_json
    from orcha_pipeline.nodes_read import open_for_viewing

    installation = open_for_viewing(config)
    with _progress("Looking at everything"):
        findings = examine(installation)
    if as_json:
        typer.echo(as_text({"version": 1, "findings": findings_json(findings)}))
    else:
        console.print(doctor_view(findings))
    if any(finding.status is Status.BROKEN for finding in findings):
        raise typer.Exit(1)


@app.command()
def status(
    *,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as docs/reliability.md describes it.")] = False,
) -> None:
    """Tell whether Orcha runs as it should; end with 1 where it does not."""
    from orcha_pipeline.installation import open_installation
    from orcha_pipeline.nodes_json import as_text
    from orcha_pipeline.status import as_json as vitals_json
    from orcha_pipeline.status import take_vitals
    from orcha_pipeline.status_view import status_view

    vitals = take_vitals(open_installation(config))
    if as_json:
        typer.echo(as_text(vitals_json(vitals)))
    else:
        console.print(status_view(vitals))
    if not vitals.healthy:
        raise typer.Exit(1)


@app.command()
def backup(
    *,
    out: Annotated[Path | None, typer.Option(help="A file, or a folder to put it in; else that of [backup].")] = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as docs/reliability.md describes it.")] = False,
) -> None:
    """Put warehouse, models, settings and what belongs to them into one archive, also while Orcha runs."""
    from orcha_pipeline.backup.commands import back_up_now, backup_json, backup_told
    from orcha_pipeline.nodes_json import as_text

    with _progress("Backing up"):
        made = back_up_now(config, out)
    if as_json:
        typer.echo(as_text(backup_json(made)))
    else:
        console.print(Text(backup_told(made)), soft_wrap=True)


@app.command()
def housekeeping(*, config: Config = None) -> None:
    """Tidy up now, as every night: keep fewer rows of what is long past, delete what is too old, give room back."""
    from orcha_pipeline.housekeeping import housekeeping_now
    from orcha_pipeline.installation import open_installation

    with _progress("Tidying up"):
        tidied = housekeeping_now(open_installation(config))
    console.print(Text(tidied.told()), soft_wrap=True)
    if tidied.problems:
        raise typer.Exit(1)


@app.command()
def restore(
    archive: Annotated[
        Path | None, typer.Argument(help="What `orcha backup` wrote. Without it, an interrupted restore is ended.")
    ] = None,
    *,
    config_too: Annotated[bool, typer.Option("--config-too", help="The archive's orcha.toml as well.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: Config = None,
) -> None:
    """Put everything back as an archive holds it; what is there now is moved aside."""
    from orcha_pipeline.backup import commands
    from orcha_pipeline.backup.archive import verify
    from orcha_pipeline.settings_file import load_settings

    home = load_settings(config).home
    target = commands.settings_target(config) if config_too else None
    with commands.held(home):
        if told := commands.finish_interrupted(home):
            console.print(Text(told), soft_wrap=True)
            return
        if archive is None:
            raise typer.BadParameter("name the archive: no restore was interrupted", param_hint="ARCHIVE")
        with _progress("Checking every file"):
            manifest = verify(archive)
        console.print(Text(commands.question(manifest, home, target)), soft_wrap=True)
        if not yes:
            typer.confirm("Restore it?", abort=True)
        with _progress("Restoring"):
            told = commands.restore_now(archive, manifest, home, target)
        console.print(Text(told), soft_wrap=True)


DecisionsAsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as docs/decisions.md describes it.")]


@app.command("decisions")
def list_decisions(
    *,
    host: Annotated[str | None, typer.Option(help="Of one host alone.")] = None,
    since: Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d, 2w.")] = "24h",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, the latest.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="Those to hold too.")] = False,
    config: Config = None,
    as_json: DecisionsAsJson = False,
) -> None:
    """List what was decided: what changed, what it was to gain, and what it gained."""
    from orcha_pipeline.decision_json import log_json
    from orcha_pipeline.decision_stories import log, span_of
    from orcha_pipeline.decision_view import log_view
    from orcha_pipeline.installation import open_installation
    from orcha_pipeline.nodes_json import as_text

    installation = open_installation(config)
    found = log(installation, host=host, since=span_of(since), limit=limit, every=every)
    if as_json:
        typer.echo(as_text(log_json(found)))
    else:
        _tell_pause(installation)
        console.print(log_view(found, width=console.width), highlight=False)


@app.command()
def explain(
    decision_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="A decision's id, or how it begins (4 characters or more); the latest."),
    ] = None,
    *,
    config: Config = None,
    as_json: DecisionsAsJson = False,
) -> None:
    """Tell one decision in full: why, what it promised, how sure that was, what was done and what came of it."""
    from orcha_pipeline.decision_json import explanation_json
    from orcha_pipeline.decision_stories import story
    from orcha_pipeline.decision_view import explanation
    from orcha_pipeline.installation import open_installation
    from orcha_pipeline.nodes_json import as_text

    installation = open_installation(config)
    found = story(installation, decision_id)
    if as_json:
        typer.echo(as_text(explanation_json(found)))
    elif found is None:
        console.print("No decision yet. `orcha up` takes the first one.")
    else:
        _tell_pause(installation)
        console.print(explanation(found, protocols=installation.node_protocols()), highlight=False)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as docs/nodes.md describes it.")]


@nodes_app.callback(invoke_without_command=True)
def nodes(context: typer.Context, *, config: Config = None, as_json: AsJson = False) -> None:
    """List every node: state, earnings, share, and what Orcha can and cannot change."""
    # What a library has to tell meanwhile (a retry, a plug-in's traceback) is not for the terminal.
    logging.getLogger().addHandler(logging.NullHandler())
    if context.invoked_subcommand is None:
        list_nodes(config=config, as_json=as_json)
        return
    _options_stand_behind(context)


@nodes_app.command("list")
def list_nodes(*, config: Config = None, as_json: AsJson = False) -> None:
    """List every node: state, earnings, share, and what Orcha can and cannot change."""
    from orcha_pipeline.nodes_json import as_text, survey_json
    from orcha_pipeline.nodes_read import open_for_viewing, survey
    from orcha_pipeline.nodes_view import survey_table

    installation = open_for_viewing(config)
    with _progress(f"Reading {len(installation.settings.nodes)} nodes"):
        found = survey(installation)
    if as_json:
        typer.echo(as_text(survey_json(found)))
    else:
        _tell_pause(installation)
        console.print(survey_table(found, width=console.width))


@nodes_app.command("check")
def check_nodes(
    name: Annotated[str | None, typer.Argument(help="Which node; all of them without it.")] = None,
    *,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Test connection, credentials and levers without changing anything; say what is missing and how to grant it."""
    from orcha_pipeline.nodes_check import check_nodes as check
    from orcha_pipeline.nodes_json import as_text, check_json
    from orcha_pipeline.nodes_read import open_for_viewing
    from orcha_pipeline.nodes_view import check_table

    installation = open_for_viewing(config)
    with _progress(f"Checking {name or f'{len(installation.settings.nodes)} nodes'}"):
        checks = check(installation, name)
    if as_json:
        typer.echo(as_text(check_json(checks)))
    else:
        console.print(check_table(checks))
    if any(one.broken for one in checks):
        raise typer.Exit(1)


@nodes_app.command("read")
def read_node(
    name: Annotated[str, typer.Argument(help="Which node.")], *, config: Config = None, as_json: AsJson = False
) -> None:
    """Print one full reading of a node, with units and provenance."""
    from orcha_pipeline.nodes_json import as_text, reading_json
    from orcha_pipeline.nodes_read import open_for_viewing, read_one
    from orcha_pipeline.nodes_view import reading_table

    installation = open_for_viewing(config)
    with _progress(f"Reading {name}"):
        found = read_one(installation, name)
    if as_json:
        typer.echo(as_text(reading_json(found)))
    else:
        console.print(reading_table(found))
    if found.faults:
        raise typer.Exit(1)


def _options_stand_behind(context: typer.Context) -> None:
    """Refuse options given before the subcommand, which would not see them."""
    given = (context.get_parameter_source(name) for name in ("config", "as_json", "every"))
    if any(source is not None and source.name == "COMMANDLINE" for source in given):
        raise typer.BadParameter(f"give options behind `{context.invoked_subcommand}`")


def _progress(text: str) -> Status:
    """A spinner beside the output, which may be read by a program."""
    return Console(stderr=True).status(text)


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
    hosts: Annotated[int, typer.Option(min=1, max=1000, help="How many hosts, each with four nodes.")] = 1,
    world: Annotated[Path | None, typer.Option(help="A world folder to play instead of the seeded one.")] = None,
    prices: Annotated[Path | None, typer.Option(help="Hourly token prices to play (unique_id, ds, y).")] = None,
    start: Annotated[datetime | None, typer.Option(help="Where its clock starts (UTC) in a new state folder.")] = None,
    speed: Annotated[
        float | None, typer.Option(help="Let its time run this many times faster than the wall clock's.")
    ] = None,
) -> None:
    """Run the emulated nodes alone, on loopback."""
    from datetime import UTC

    from orcha_pipeline.testnet.server import serve

    begin = None if start is None else start.replace(tzinfo=UTC)
    several = "" if hosts == 1 else f" of {hosts} hosts"
    told = f"The testnet{several} answers at http://127.0.0.1:{port}. Everything it serves is simulated."
    serve(
        state=state,
        port=port,
        seed=seed,
        hosts=hosts,
        world=world,
        prices=prices,
        start=begin,
        speed=speed,
        ready=lambda: console.print(told),
    )


@world_app.command("new")
def new_world(
    *,
    kind: Annotated[WorldKind, typer.Option(help="What it is like.")],
    out: Annotated[Path, typer.Option(help="A folder to write, which must not be there yet.")],
    seed: Annotated[int, typer.Option(help="Which of its kind: the same seed gives the same files.")] = 1,
    days: Annotated[int, typer.Option(help="How many days, the first third of them history to learn from.")] = 30,
    prices: Annotated[
        Path | None, typer.Option(help="For replay: hourly token prices (unique_id, ds, y) instead of seeded ones.")
    ] = None,
) -> None:
    """Write a world: true yields to serve, or to test a planner in."""
    from orcha_pipeline.testnet.world_kinds import write_world

    with console.status(f"Writing {out}"):
        write_world(out, kind=kind, seed=seed, days=days, prices=prices)
    console.print(f"Wrote {out}: {days} days of the kind {kind}, seed {seed}.")


History = Annotated[
    Path, typer.Option("--history", help="CSV (also .gz) or Parquet: unique_id, ds (a time or an integer hour), y.")
]
Horizon = Annotated[int, typer.Option(min=1, max=168, help="Hours ahead.")]
Models = Annotated[str | None, typer.Option("--models", help="Candidates, separated by commas; all without it.")]
Seed = Annotated[int, typer.Option(min=0, help="For what is drawn at random: the same seed gives the same forecasts.")]


@app.command("forecast")
def forecast_series(
    *,
    history: History,
    out: Annotated[Path, typer.Option(help="CSV or Parquet to write: unique_id, ds, p10, p50, p90.")],
    horizon: Horizon = 24,
    models: Models = None,
    seed: Seed = 0,
) -> None:
    """Forecast any hourly series: train the candidates, prove them on the history's end, serve the best blend."""
    from orcha_pipeline.forecasting.commands import forecast

    forecast(console, history=history, out=out, horizon=horizon, models=models, seed=seed)


@backtest_app.command("forecast")
def backtest_forecast(
    *,
    history: History,
    test: Annotated[
        Path | None, typer.Option(help="The hours after the history, in the same form: one origin, the history's end.")
    ] = None,
    horizon: Horizon = 24,
    last: Annotated[
        int | None, typer.Option(min=1, help="Hours at the history's end to test on; needed without --test.")
    ] = None,
    step: Annotated[int, typer.Option(min=1, help="Hours from one origin to the next.")] = 24,
    models: Models = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--json", help="A file for everything, by series too.")] = None,
) -> None:
    """Measure every candidate on rolling origins, and what would have been served at each of them."""
    from orcha_pipeline.forecasting.commands import backtest_forecast as run

    run(console, history=history, test=test, horizon=horizon, last=last, step=step, models=models, seed=seed, out=out)


@backtest_app.command("allocation")
def backtest_allocation(
    *,
    world: Annotated[Path, typer.Option(help="A world folder: world.toml and yields.csv (`orcha testnet world new`).")],
    policies: Annotated[str | None, typer.Option(help="Which, separated by commas; all without it.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="A file for the figures.")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="A PNG of USD and shares over time.")] = None,
) -> None:
    """Play policies in a world whose every yield is known, and hold them against hindsight."""
    from orcha_pipeline.yardstick.commands import backtest_allocation as run

    run(console, world=world, policies=policies, out=out, picture=picture)


Protocol = Annotated[str, typer.Argument(help="Whose model, for example storj.")]
Version = Annotated[str, typer.Argument(help="Which version, as `orcha models` lists them.")]
Why = Annotated[str, typer.Option("--why", help="The reason, kept with the move.")]


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, *, config: Config = None, as_json: AsJson = False) -> None:
    """List every model version: measures, aliases, live errors, and who made it champion."""
    if context.invoked_subcommand is None:
        list_models(config=config, as_json=as_json)
        return
    _options_stand_behind(context)


@models_app.command("list")
def list_models(
    protocol: Annotated[str | None, typer.Argument(help="Of one protocol alone.")] = None,
    *,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List every model version: measures, aliases, live errors, and who made it champion."""
    from orcha_pipeline.installation import open_installation
    from orcha_pipeline.models_view import champions_told, models_json, models_table, survey

    installation = open_installation(config)
    lines = survey(installation.warehouse, protocol=protocol)
    if as_json:
        typer.echo(models_json(lines))
    elif not lines:
        console.print(f"No model{f' of {protocol}' if protocol else ''} has been trained yet.")
    else:
        console.print(models_table(lines, simulated=installation.simulated))
        for told in champions_told(lines):
            console.print(told, highlight=False)


@models_app.command("check")
def check_model(protocol: Protocol, version: Version, *, config: Config = None) -> None:
    """Load a version from its files and have it give again, bit by bit, the forecasts its training logged."""
    from orcha_pipeline.forecasting.champion import check
    from orcha_pipeline.installation import open_installation

    installation = open_installation(config)
    count = check(installation.warehouse, home=installation.settings.home, protocol=protocol, version=version)
    console.print(f"Version {version} of {protocol} gives the same {count} forecasts as at its training.")


@models_app.command("promote")
def promote_model(protocol: Protocol, version: Version, *, why: Why, who: Who = None, config: Config = None) -> None:
    """Make a version the champion: it is served from the next forecast on."""
    from orcha_pipeline.forecasting.champion import open_place, promote

    place = open_place(config)
    with _progress(f"Promoting version {version}"):
        move = promote(place, protocol=protocol, version=version, who=who or getuser(), why=why)
    console.print(move.told())


@models_app.command("rollback")
def rollback_model(protocol: Protocol, *, why: Why, who: Who = None, config: Config = None) -> None:
    """Make the champion before the present one champion again."""
    from orcha_pipeline.forecasting.champion import open_place, rollback

    place = open_place(config)
    with _progress("Rolling back"):
        move = rollback(place, protocol=protocol, who=who or getuser(), why=why)
    console.print(move.told())


AlertsAsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as docs/alerts.md describes it.")]
EveryAlert = Annotated[bool, typer.Option("--all", help="Those too that were resolved in the last week.")]
AlertId = Annotated[str, typer.Argument(metavar="ID", help="An alert's id, or how it begins (4 characters or more).")]
By = Annotated[str | None, typer.Option("--by", help="Who does it; you, without it.")]


@alerts_app.callback(invoke_without_command=True)
def alerts(
    context: typer.Context, *, every: EveryAlert = False, config: Config = None, as_json: AlertsAsJson = False
) -> None:
    """List the open alerts: how grave, since when, of what, and what it is about."""
    if context.invoked_subcommand is None:
        list_alerts(every=every, config=config, as_json=as_json)
        return
    _options_stand_behind(context)


@alerts_app.command("list")
def list_alerts(*, every: EveryAlert = False, config: Config = None, as_json: AlertsAsJson = False) -> None:
    """List the open alerts: how grave, since when, of what, and what it is about."""
    from orcha_pipeline.anomalies.alerts.commands import listed
    from orcha_pipeline.anomalies.alerts.view import alerts_json, alerts_view
    from orcha_pipeline.installation import open_installation
    from orcha_pipeline.nodes_json import as_text

    installation = open_installation(config)
    found, now = listed(installation, every=every)
    if as_json:
        typer.echo(as_text(alerts_json(found, now=now, simulated=installation.simulated)))
    else:
        console.print(alerts_view(found, every=every, simulated=installation.simulated))


@alerts_app.command("ack")
def acknowledge_alert(alert_id: AlertId, *, by: By = None, config: Config = None) -> None:
    """Acknowledge an alert: it stays open, and is not told again unless it becomes worse."""
    from orcha_pipeline.anomalies.alerts.commands import acknowledge
    from orcha_pipeline.installation import open_installation

    console.print(Text(acknowledge(open_installation(config), alert_id, who=by or getuser())))


@alerts_app.command("resolve")
def resolve_alert(alert_id: AlertId, *, by: By = None, config: Config = None) -> None:
    """End an alert by hand."""
    from orcha_pipeline.anomalies.alerts.commands import resolve
    from orcha_pipeline.installation import open_installation

    console.print(Text(resolve(open_installation(config), alert_id, who=by or getuser())))


@alerts_app.command("test")
def try_channels(
    channel: Annotated[str | None, typer.Argument(help="Which channel; each of them without it.")] = None,
    *,
    config: Config = None,
) -> None:
    """Send a real test message through the channels now, and tell what came of it."""
    from orcha_pipeline.anomalies.alerts.commands import try_channels as run
    from orcha_pipeline.anomalies.alerts.delivery import Courier
    from orcha_pipeline.anomalies.alerts.view import trials_view
    from orcha_pipeline.installation import open_installation

    installation = open_installation(config)
    with _progress("Sending"):
        trials = run(installation, Courier(), channel)
    console.print(trials_view(trials), highlight=False)
    if not all(trial.outcome.taken for trial in trials):
        raise typer.Exit(1)


def main() -> None:
    """Run the command; a mistake of the user's ends with its message alone."""
    try:
        app(standalone_mode=True)
    except OrchaError as error:
        Console(stderr=True).print("[red]✗[/]", Text(str(error)), highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
