"""Token prices in USD: which of the sources' quotes are believed, for how long, and when a source may be asked.

A price is the median of the quotes that are fresh. A quote far from the last price is believed only if a second
source agrees with it. Without a fresh quote the newest one that is not too old is used and called an estimate;
without any the token is unpriced.
"""

import logging
import queue
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from statistics import median
from threading import Thread

import httpx

from orcha_pipeline.clock import Clock
from orcha_pipeline.errors import AdapterError, ApiError, SettingsError
from orcha_pipeline.model import PriceReading, Provenance, Window
from orcha_pipeline.price_files import read_price_file
from orcha_pipeline.price_sources import (
    TIMEOUT_SECONDS,
    TOKENS,
    CoinGecko,
    DefiLlama,
    PriceSource,
    Quote,
    known_tokens,
    open_sources,
    token_of,
)
from orcha_pipeline.protocols.http import HttpStatusError, time_budget
from orcha_pipeline.settings import PriceSettings

__all__ = ["TOKENS", "PriceClient", "read_price_file"]

LARGEST_JUMP = Decimal("0.5")
AGREEMENT = Decimal("0.2")
"""Two sources agree on a price where the lower is no further than this part of itself from the higher."""
JUDGED_FOR = timedelta(hours=2)
"""A quote is held against a price no older than this: a real move must not be refused for ever."""
ASKED_EVERY = timedelta(minutes=1)
AHEAD = timedelta(minutes=5)
"""How far a source's clock may run ahead of ours."""
LONGEST_JITTER_SECONDS = 1.0
GRACE_SECONDS = 0.5
PINNED = "pinned in the settings"
_KEPT = "kept of "

_log = logging.getLogger(__name__)

Answer = Mapping[str, Quote | str] | str
"""A source's quotes by token, or why it failed as a whole."""


def _pause() -> None:
    """Spread the calls of many installations, whose cycles all begin at the full quarter of an hour."""
    time.sleep(random.uniform(0, LONGEST_JITTER_SECONDS))  # noqa: S311 (no secret)


class PriceClient:
    """Reads prices of all tokens from several sources at once. Pinned prices are never asked for."""

    def __init__(
        self,
        settings: PriceSettings,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
        *,
        tokens: Iterable[str] = (),
        pause: Callable[[], None] | None = None,
    ) -> None:
        """`tokens` are read besides the four built in; they are CoinGecko's ids.

        `transport` replaces the network, `pause` what is done before a source is asked.

        Raises `SettingsError` for a bad address or an unknown pinned token.
        """
        self.tokens: tuple[str, ...] = tuple(dict.fromkeys([*TOKENS.values(), *tokens]))
        self._pinned = {token_of(name): Decimal(repr(usd)) for name, usd in settings.pinned.items()}
        unknown = sorted(set(self._pinned) - set(self.tokens))
        if unknown:
            raise SettingsError(f"prices.pinned: unknown token {unknown[0]!r}; known are {known_tokens(self.tokens)}")
        self._fresh_for = timedelta(minutes=settings.fresh_minutes)
        self._usable_for = timedelta(minutes=max(settings.fresh_minutes, settings.stale_after_minutes))
        self._clock = clock
        self._pause = pause or ((lambda: None) if settings.is_local else _pause)
        self._sources = open_sources(settings, transport)
        self._rests: dict[str, datetime] = {}
        """Source -> the moment before which it asked not to be called."""
        self._last: list[PriceReading] = []

    def read(self, previous: Iterable[PriceReading] = ()) -> list[PriceReading]:
        """A reading per token. `previous`: the readings of the last two hours, pinned and unknown ones too.

        They are what a jump is held against and what stands in while no source answers. Where they are less than a
        minute old they are given again as they are, and no source is asked. A token that no price can be had or
        believed of is None, its `source` says why.
        """
        now = self._clock.now()
        known = _Known.of([*previous, *self._last], now)
        asked = [token for token in self.tokens if token not in self._pinned]
        if asked and all(known.just_read(token, now) for token in asked):
            return [self._pinned_reading(t, now) if t in self._pinned else known.last[t] for t in self.tokens]
        answers = self._ask(asked, now) if asked else {}
        now = self._clock.now()
        self._last = [
            self._pinned_reading(token, now)
            if token in self._pinned
            else self._judged(token, now, answers, known.priced.get(token))
            for token in self.tokens
        ]
        return self._last

    def history(self, token: str, window: Window) -> list[PriceReading]:
        """Past prices inside `window`, about one an hour; CoinGecko's, else DefiLlama's. Raises `AdapterError`.

        Of a pinned token: the pinned price at the window's start and every hour after it.
        """
        if token in self._pinned:
            hours = range(int(window.hours) + 1)
            moments = [window.start + timedelta(hours=hour) for hour in hours]
            usd = self._pinned[token]
            return [
                replace(_past(token, at, usd, PINNED), provenance=Provenance.OUR_ESTIMATE)
                for at in moments
                if at < window.end
            ]
        now = self._clock.now()
        charts = {CoinGecko: "coingecko market_chart", DefiLlama: "defillama chart"}
        failures: list[AdapterError] = []
        for source in self._sources:
            if not isinstance(source, CoinGecko | DefiLlama):
                continue
            try:
                self._check_rest(source.name, now)
                found = source.history(token, window, now)
            except AdapterError as error:
                self._note_rest(source.name, error, now)
                failures.append(error)
                continue
            if found:
                return [_past(token, at, usd, charts[type(source)]) for at, usd in found]
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ApiError("prices", "; ".join(f"{error.node}: {error.message}" for error in failures))
        return []

    def close(self) -> None:
        """Close the connections."""
        for source in self._sources:
            source.close()

    # ------------------------------------------------------------ asking

    def _ask(self, tokens: Sequence[str], now: datetime) -> dict[str, Answer]:
        """Every source at once, inside one time budget. Source -> what it answered."""
        done: queue.SimpleQueue[tuple[str, Answer]] = queue.SimpleQueue()
        answers: dict[str, Answer] = {
            source.name: f"no answer within {TIMEOUT_SECONDS:g} s" for source in self._sources
        }

        def work(source: PriceSource) -> None:
            done.put((source.name, self._answer_of(source, tokens, now)))

        for source in self._sources:
            # Daemons: a name server that hangs is beyond any time budget.
            Thread(target=copy_context().run, args=(work, source), name=f"prices-{source.name}", daemon=True).start()
        end = time.monotonic() + TIMEOUT_SECONDS + GRACE_SECONDS
        for _ in self._sources:
            try:
                name, answer = done.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            answers[name] = answer
        return answers

    def _answer_of(self, source: PriceSource, tokens: Sequence[str], now: datetime) -> Answer:
        try:
            self._check_rest(source.name, now)
            with time_budget(TIMEOUT_SECONDS):
                self._pause()
                return source.quotes(tokens)
        except AdapterError as error:
            self._note_rest(source.name, error, now)
            return f"{error.kind}: {error.message}"
        except Exception as error:  # noqa: BLE001 (one source must not spoil the others, whatever it is)
            _log.exception("the price source %s failed", source.name)
            return f"it failed: {type(error).__name__} (see the log)"

    def _check_rest(self, source: str, now: datetime) -> None:
        until = self._rests.get(source)
        if until is not None and now < until:
            raise ApiError(source, f"asked to be left alone until {until:%H:%M:%S} UTC")

    def _note_rest(self, source: str, error: AdapterError, now: datetime) -> None:
        if isinstance(error, HttpStatusError) and error.retry_after:
            self._rests[source] = now + timedelta(seconds=error.retry_after)

    # ------------------------------------------------------------ judging

    def _judged(
        self, token: str, now: datetime, answers: Mapping[str, Answer], previous: PriceReading | None
    ) -> PriceReading:
        quotes: dict[str, _Timed] = {}
        problems: list[str] = []
        for source, answer in answers.items():
            given = answer if isinstance(answer, str) else answer.get(token, "the token is missing from the answer")
            timed = given if isinstance(given, str) else self._timed(given, now)
            if isinstance(timed, str):
                problems.append(f"{source}: {timed}")
            else:
                quotes[source] = timed
        believed = _believed(quotes, previous.usd if previous else None)
        problems += [
            f"{source}: {_why_not_believed(quote.usd, previous)}"
            for source, quote in quotes.items()
            if source not in believed
        ]
        fresh = {source: quote for source, quote in believed.items() if now - quote.at <= self._fresh_for}
        chosen = fresh or _newest(believed, self._fresh_for)
        at = min((quote.at for quote in chosen.values()), default=None)
        if previous is not None and not fresh and self._may_stand_in(previous, at, now):
            return self._kept(previous, now, problems)
        if at is None:
            why = "; ".join(sorted(problems)) or "no price source is set"
            return PriceReading(
                token=token,
                observed_at=now,
                usd=None,
                priced_at=None,
                provenance=Provenance.UNKNOWN,
                source=why,
            )
        names = ", ".join(chosen)
        parts = [f"median of {names}" if len(chosen) > 1 else names]
        parts += [] if fresh else [f"stale, of {at:%Y-%m-%d %H:%M} UTC"]
        return PriceReading(
            token=token,
            observed_at=now,
            usd=Decimal(median(quote.usd for quote in chosen.values())),
            priced_at=at,
            provenance=Provenance.MEASURED if fresh else Provenance.OUR_ESTIMATE,
            source="; ".join([*parts, *sorted(problems)]),
        )

    def _timed(self, quote: Quote, now: datetime) -> "_Timed | str":
        """The quote with a time, or why its time rules it out."""
        at = quote.priced_at or now
        if at - now > AHEAD:
            return f"its price is of {at:%Y-%m-%d %H:%M} UTC, which has not come yet"
        if now - at > self._usable_for:
            return f"its price is of {at:%Y-%m-%d %H:%M} UTC, too old"
        return _Timed(quote.usd, min(at, now))

    def _may_stand_in(self, previous: PriceReading, at: datetime | None, now: datetime) -> bool:
        """Whether the last price is usable still, and newer than what the sources have."""
        of = previous.priced_at
        return of is not None and now - of <= self._usable_for and (at is None or of > at)

    def _kept(self, previous: PriceReading, now: datetime, problems: Sequence[str]) -> PriceReading:
        fresh = previous.priced_at is not None and now - previous.priced_at <= self._fresh_for
        told = previous.source.split("; ", maxsplit=1)[0]
        if not told.startswith(_KEPT):
            told = f"{_KEPT}{previous.priced_at:%Y-%m-%d %H:%M} UTC, {told}"
        return replace(
            previous,
            observed_at=now,
            provenance=previous.provenance if fresh else Provenance.OUR_ESTIMATE,
            source="; ".join([told, *sorted(problems)]),
        )

    def _pinned_reading(self, token: str, now: datetime) -> PriceReading:
        return PriceReading(
            token=token,
            observed_at=now,
            usd=self._pinned[token],
            priced_at=now,
            provenance=Provenance.OUR_ESTIMATE,
            source=PINNED,
        )


@dataclass(frozen=True, slots=True)
class _Timed:
    """A quote whose time is known and usable."""

    usd: Decimal
    at: datetime


@dataclass(frozen=True, slots=True)
class _Known:
    """What is on record of each token: its last reading, and the last price that quotes are held against."""

    last: dict[str, PriceReading] = field(default_factory=dict[str, PriceReading])
    priced: dict[str, PriceReading] = field(default_factory=dict[str, PriceReading])

    @classmethod
    def of(cls, previous: Iterable[PriceReading], now: datetime) -> "_Known":
        """From readings in any order. A pinned price is the operator's: no market price is held against it."""
        known = cls()
        for reading in sorted(previous, key=lambda r: r.observed_at):
            if reading.observed_at > now or reading.source == PINNED:
                continue
            known.last[reading.token] = reading
            if reading.usd and reading.priced_at is not None and now - reading.priced_at <= JUDGED_FOR:
                known.priced[reading.token] = reading
        return known

    def just_read(self, token: str, now: datetime) -> bool:
        """Whether the sources were asked less than a minute ago."""
        last = self.last.get(token)
        return last is not None and now - last.observed_at < ASKED_EVERY


def _agree(one: Decimal, other: Decimal) -> bool:
    return abs(one - other) <= AGREEMENT * min(one, other)


def _believed(quotes: Mapping[str, _Timed], previous: Decimal | None) -> dict[str, _Timed]:
    """The quotes near the last price, those a second source agrees with, and, with no last price, a single one."""

    def holds(source: str, usd: Decimal) -> bool:
        if any(name != source and _agree(usd, other.usd) for name, other in quotes.items()):
            return True
        if previous is None:
            return len(quotes) == 1
        return abs(usd - previous) <= LARGEST_JUMP * previous

    return {source: quote for source, quote in quotes.items() if holds(source, quote.usd)}


def _why_not_believed(usd: Decimal, previous: PriceReading | None) -> str:
    if previous is None or previous.usd is None:
        return f"{_plain(usd)} USD is not believed, no other source agrees"
    return f"a jump from {_plain(previous.usd)} to {_plain(usd)} USD is not believed"


def _newest(quotes: Mapping[str, _Timed], within: timedelta) -> dict[str, _Timed]:
    """The newest quote and those not much older."""
    latest = max((quote.at for quote in quotes.values()), default=None)
    return {} if latest is None else {s: quote for s, quote in quotes.items() if latest - quote.at <= within}


def _plain(usd: Decimal) -> str:
    return f"{usd.normalize():f}"


def _past(token: str, at: datetime, usd: Decimal, source: str) -> PriceReading:
    return PriceReading(
        token=token, observed_at=at, usd=usd, priced_at=at, provenance=Provenance.MEASURED, source=source
    )
