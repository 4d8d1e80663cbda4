"""Charts as PNG bytes, for Dagster's metadata and MLflow's runs. Values in, bytes out."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from orcha_pipeline.forecasting.features import series_name, to_datetime, to_hour
from orcha_pipeline.forecasting.panel import HourlySeries
from orcha_pipeline.forecasting.promotion import SERVED
from orcha_pipeline.model import NET_NATIVE, YIELD_USD, YieldForecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HISTORY_HOURS = 72
TRUTH, BAND = "#1f2937", "#2563eb"
UNITS = {YIELD_USD: "USD per hour at full share", NET_NATIVE: "native units an hour"}


def forecast_fan_png(history: Sequence[HourlySeries], forecasts: Sequence[YieldForecast]) -> bytes:
    """One panel a forecast: the truth from 72 h before it on, as far as `history` knows it, and p10-p90 with p50.

    `history` is as `features.panel_of` makes it. An unknown hour is a gap in the line.
    """
    figure = _figure(height=0.6 + 2.1 * max(1, len(forecasts)))
    series = {one.name: one for one in history}
    for panel, one in enumerate(forecasts):
        axes = figure.add_subplot(len(forecasts), 1, panel + 1)
        first = to_hour(one.hours[0])
        if (past := series.get(series_name(one.node, one.target))) is not None:
            start, end = max(past.first_hour, first - HISTORY_HOURS), min(past.end, to_hour(one.hours[-1]) + 1)
            moments = [to_datetime(hour) for hour in range(start, end)]
            axes.plot(moments, past.between(start, end), color=TRUTH, linewidth=1.2, label="measured")  # pyright: ignore[reportArgumentType]
        axes.fill_between(one.hours, one.p10, one.p90, color=BAND, alpha=0.2, linewidth=0, label="p10-p90")  # pyright: ignore[reportArgumentType]
        axes.plot(one.hours, one.p50, color=BAND, linewidth=1.6, label="p50")  # pyright: ignore[reportArgumentType]
        axes.axvline(one.hours[0], color=TRUTH, linewidth=0.8, linestyle=":")  # pyright: ignore[reportArgumentType]
        _dress(axes, title=f"{one.node} - {one.model} {one.version}", y_label=UNITS[one.target])
        axes.set_ylim(bottom=0)
    return _png(figure)


def error_by_horizon_png(errors: Mapping[str, Sequence[float]]) -> bytes:
    """WAPE of each coming hour, a line a model; what is served stands out."""
    figure = _figure(height=3.4)
    axes = figure.add_subplot(1, 1, 1)
    for name, values in errors.items():
        served = name == SERVED
        axes.plot(
            range(1, len(values) + 1),
            values,
            label=name,
            color=BAND if served else None,
            linewidth=2.4 if served else 1.0,
            zorder=3 if served else 2,
        )
    axes.set_xlabel("hours ahead", fontsize=8)
    axes.set_ylim(bottom=0)
    _dress(axes, title="Error by horizon", y_label="WAPE")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return _png(figure)


def loss_curve_png(loss: Sequence[float], val_loss: Sequence[float], *, best_epoch: int | None) -> bytes:
    """Training and validation loss by epoch, from 1, the epoch whose weights were kept marked."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(height=3.0)
    axes = figure.add_subplot(1, 1, 1)
    epochs = range(1, len(loss) + 1)
    axes.plot(epochs, loss, color=TRUTH, label="training")
    axes.plot(epochs, val_loss, color=BAND, label="validation")
    if best_epoch is not None:
        axes.axvline(best_epoch, color=BAND, linewidth=0.8, linestyle=":", label="kept")
    axes.set_xlabel("epoch", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _dress(axes, title="Loss", y_label="pinball loss (scaled)")
    return _png(figure)


def _dress(axes: "Axes", *, title: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel(y_label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)  # pyright: ignore[reportCallIssue]
    axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)


def _figure(*, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(9, height), dpi=110, layout="constrained")


def _png(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
