"""From what nodes report to what they earned hour by hour: native amounts first, prices second. Pure.

A counter is read at odd moments, so its value at a full hour is interpolated between the readings around it. That
is honest only while they are close: where readings are further apart than `MAX_GAP`, the hours they lie in and those
between stay unknown, and what was earned in all of these is kept as one bucket.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Context, Decimal, localcontext
from itertools import pairwise

from orcha_pipeline.model import (
    HOUR,
    STAND_IN,
    Amounts,
    EarningsBucket,
    EarningsCounter,
    EarningsObservation,
    Provenance,
    Window,
    hour_of,
)

MAX_GAP = timedelta(minutes=100)
EDGE_TOLERANCE = timedelta(minutes=2)
"""A reading this close to the full hour counts as read at it."""

_EXACT = Context(prec=60)
"""Python's 28 digits would round billions of tokens counted in wei."""

_WORST_FIRST = (Provenance.UNKNOWN, Provenance.OUR_ESTIMATE, Provenance.NODE_ESTIMATE, Provenance.MEASURED)
_KINDS = ("gross", "held", "net", "doubtful")

PriceAt = Callable[[datetime], Decimal | None]
"""USD for one native unit in the hour that starts at the argument; None where there was no usable price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarnedBucket:
    """What one node earned in `window`. Amounts None: unknown. USD at the price of the bucket's hour."""

    node: str
    window: Window
    unit: str
    amounts: Amounts
    usd_price: Decimal | None
    provenance: Provenance

    def usd(self, kind: str) -> float | None:
        """`kind` ("gross", "held", "net", "doubtful") in USD; None where amount or price is unknown."""
        amount: Decimal | None = getattr(self.amounts, kind)
        return None if amount is None or self.usd_price is None else float(amount * self.usd_price)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Earned by one stream in one stretch of time."""

    window: Window
    amounts: Amounts
    provenance: Provenance


def _worst(provenances: Iterable[Provenance]) -> Provenance:
    return min(provenances, key=_WORST_FIRST.index)


def _combine(parts: Sequence[Amounts]) -> Amounts:
    """Sum kind by kind; a kind unknown in one part is unknown in the sum."""

    def total(kind: str) -> Decimal | None:
        amounts: list[Decimal | None] = [getattr(part, kind) for part in parts]
        known = [amount for amount in amounts if amount is not None]
        return sum(known, Decimal(0)) if len(known) == len(amounts) else None

    return Amounts(**{kind: total(kind) for kind in _KINDS})


def _scale(amounts: Amounts, fraction: Decimal) -> Amounts:
    def scaled(kind: str) -> Decimal | None:
        amount: Decimal | None = getattr(amounts, kind)
        return None if amount is None else amount * fraction

    return Amounts(**{kind: scaled(kind) for kind in _KINDS})


def _difference(later: Amounts, earlier: Amounts) -> Amounts:
    def less(kind: str) -> Decimal | None:
        after: Decimal | None = getattr(later, kind)
        before: Decimal | None = getattr(earlier, kind)
        return None if after is None or before is None else after - before

    return Amounts(**{kind: less(kind) for kind in _KINDS})


_ZERO = Amounts(**{kind: Decimal(0) for kind in _KINDS})


def _fraction(part: timedelta, whole: timedelta) -> Decimal:
    microsecond = timedelta(microseconds=1)
    return Decimal(part // microsecond) / Decimal(whole // microsecond)


def _share_of(piece: _Piece, window: Window) -> _Piece | None:
    """The part of `piece` inside `window`, as if earned evenly; None when they do not meet."""
    start, end = max(piece.window.start, window.start), min(piece.window.end, window.end)
    if start >= end:
        return None
    length = piece.window.end - piece.window.start
    inside = end - start
    provenance = piece.provenance
    # Cutting a piece is our estimate, unless all but a sliver of it lies on one side.
    if EDGE_TOLERANCE < inside < length - EDGE_TOLERANCE:
        provenance = _worst((provenance, Provenance.OUR_ESTIMATE))
    return _Piece(Window(start, end), _scale(piece.amounts, _fraction(inside, length)), provenance)


def _counter_pieces(counters: Sequence[EarningsCounter], observed: Sequence[datetime]) -> list[_Piece]:
    """Differences of one stream's readings. `observed`: every moment its node was read, ascending."""
    points = [(c.observed_at, c.amounts, c.provenance) for c in counters]
    first = counters[0]
    before = bisect_left(observed, first.observed_at)
    # A stream that began after the node was last read started from zero under our eyes.
    if first.since is not None and before > 0 and observed[before - 1] <= first.since < first.observed_at:
        points.insert(0, (first.since, _ZERO, first.provenance))
    return [
        _Piece(Window(start, end), _difference(later, earlier), _worst((known, told)))
        for (start, earlier, known), (end, later, told) in pairwise(points)
        if end > start
    ]


def _growth(amounts: Amounts) -> bool:
    """Every known amount is positive or nothing, and one at least is known."""
    known = [amount for kind in _KINDS if (amount := getattr(amounts, kind)) is not None]
    return bool(known) and min(known) >= 0


def _standing_in(
    pieces: Sequence[_Piece], readings: Sequence[EarningsCounter], substitutes: Sequence[_Piece]
) -> list[_Piece]:
    """`pieces` of a stream with its gaps filled by those of its stand-in. `readings`: all of the stream, in order.

    Inside a gap the sum stays the stream's own: what the stand-in did not see is spread over the time it did not
    see, as our estimate, and where it saw more than there was it is scaled down. Before the stream's first reading
    and after its last, the stand-in's growth is all that is known.
    """
    # A stand-in that fell back to nothing, or that was itself not read for long, tells nothing of the time between.
    usable = [p for p in substitutes if p.window.end - p.window.start <= MAX_GAP and _growth(p.amounts)]
    filled: list[_Piece] = []
    for piece in pieces:
        inside = [p for p in usable if piece.window.start <= p.window.start and p.window.end <= piece.window.end]
        is_gap = piece.window.end - piece.window.start > MAX_GAP
        filled += _filled(piece, inside) if is_gap and inside and _growth(piece.amounts) else [piece]
    if readings:
        first, last = readings[0].observed_at, readings[-1].observed_at
        usable = [p for p in usable if p.window.end <= first or p.window.start >= last]
    return sorted([*filled, *usable], key=lambda p: p.window.start)


def _filled(gap: _Piece, inside: Sequence[_Piece]) -> list[_Piece]:
    """`gap` cut into the pieces of its stand-in and the holes between them, which add up to `gap`."""
    holes: list[Window] = []
    end = gap.window.start
    for piece in inside:
        if piece.window.start > end:
            holes.append(Window(end, piece.window.start))
        end = piece.window.end
    if gap.window.end > end:
        holes.append(Window(end, gap.window.end))
    if not holes:
        return [gap]
    seen = _combine([piece.amounts for piece in inside])
    unseen = sum((hole.end - hole.start for hole in holes), timedelta(0))

    def cut(part: Amounts | None, length: timedelta) -> Amounts:
        """What belongs to a piece of the stand-in that saw `part`, or to a hole of this length."""

        def amount(kind: str) -> Decimal | None:
            whole: Decimal | None = getattr(gap.amounts, kind)
            told: Decimal | None = getattr(seen, kind)
            if whole is None or told is None:
                return None
            if part is not None:
                own: Decimal = getattr(part, kind)
                return own * whole / told if told > whole else own
            return max(whole - told, Decimal(0)) * _fraction(length, unseen)

        return Amounts(**{kind: amount(kind) for kind in _KINDS})

    return [
        *(_Piece(p.window, cut(p.amounts, timedelta(0)), _worst((p.provenance, gap.provenance))) for p in inside),
        *(_Piece(hole, cut(None, hole.end - hole.start), Provenance.OUR_ESTIMATE) for hole in holes),
    ]


def _gone_at(last: datetime, observed: Sequence[datetime]) -> datetime | None:
    """The first reading without a stream that was last told at `last`; None while it may come back.

    One reading without it is unknown, not zero. Readings that go on without it for longer than `MAX_GAP` say that it
    is gone: a satellite that disqualified the node, a source that is no longer used.
    """
    later = bisect_right(observed, last)
    return observed[later] if later < len(observed) and observed[-1] - last > MAX_GAP else None


def _came_at(first: datetime, observed: Sequence[datetime]) -> datetime | None:
    """The last reading before a stream first told at `first`, if it was missing for longer than `MAX_GAP`."""
    earlier = bisect_left(observed, first)
    return observed[earlier - 1] if earlier > 0 and first - observed[0] > MAX_GAP else None


def _ended_at(counters: Sequence[EarningsCounter], others: Sequence[EarningsCounter]) -> datetime | None:
    """When a stream stopped earning, or None while it is expected to go on.

    It has ended when it no longer grew, or when a stream of the same node began after it was last read. Without
    either, a stream that is missing from a reading is unknown there, not zero.
    """
    last = counters[-1]
    if len(counters) > 1 and counters[-2].amounts == last.amounts:
        return last.observed_at
    began = [c.since for c in others if c.since is not None and c.since >= last.observed_at]
    return min(began) if began else None


def earned(
    node: str,
    observations: Sequence[EarningsObservation],
    window: Window,
    price_at: PriceAt,
    *,
    step: timedelta = HOUR,
) -> list[EarnedBucket]:
    """What one node earned in the full hours of `window`, and in stretches too coarse for hours.

    `observations` should reach from before the window to after it. Every full hour gets a row, unknown ones too;
    a coarse row is given where readings lie further apart than `MAX_GAP`, or where the node itself keeps only
    longer buckets. Coarse rows and the unknown hours inside them overlap: the hours hold no amount. A coarse row
    between readings reaches to the full hours around it, as far as what was earned up to there is known.

    `step`: of quarters of an hour instead, say; it divides an hour. A price is that of the hour even so.
    """
    if not observations:
        return []
    with localcontext(_EXACT):
        streams = _streams(observations)
        found = [
            *(piece for piece in _stretches(streams, step) if _meet(piece.window, window)),
            *_buckets_of_their_own(streams, window),
            *_steps(streams, window, step),
        ]
    unit = observations[0].unit

    def row(piece: _Piece) -> EarnedBucket:
        price = price_at(hour_of(piece.window.end - timedelta(microseconds=1)))
        return EarnedBucket(
            node=node,
            window=piece.window,
            unit=unit,
            amounts=piece.amounts,
            usd_price=price,
            provenance=piece.provenance,
        )

    return [row(piece) for piece in sorted(found, key=lambda p: (p.window.start, p.window.end))]


def reaching_back(observations: Sequence[EarningsObservation], window: Window) -> Window:
    """`window` from the beginning of the coarse row that reaches into it, where one does."""
    if not observations:
        return window
    with localcontext(_EXACT):
        coarse = [p.window.start for p in _stretches(_streams(observations), HOUR) if _meet(p.window, window)]
    return Window(min([window.start, *coarse]), window.end)


@dataclass(frozen=True, slots=True)
class _Streams:
    """A node's streams by name: all their pieces in order, and between when and when they must be known.

    `fine`: those of the pieces that are no longer than `MAX_GAP`. `counted`: the streams that are counters.
    """

    pieces: dict[str, list[_Piece]]
    fine: dict[str, list[_Piece]]
    counted: Collection[str]
    begins: dict[str, datetime | None]
    ends: dict[str, datetime | None]

    def runs_on(self, stream: str) -> bool:
        """Whether it tells more than longer buckets of its own (a paystub, a settled epoch)."""
        return bool(self.fine[stream]) or stream in self.counted


def _streams(observations: Sequence[EarningsObservation]) -> _Streams:
    counters: dict[str, list[EarningsCounter]] = defaultdict(list)
    buckets: dict[str, list[EarningsBucket]] = defaultdict(list)
    for item in sorted(observations, key=lambda o: o.observed_at):
        (counters if isinstance(item, EarningsCounter) else buckets)[item.stream].append(item)  # type: ignore[arg-type]
    observed = sorted({o.observed_at for o in observations})
    pieces: dict[str, list[_Piece]] = {}
    begins: dict[str, datetime | None] = {}
    ends: dict[str, datetime | None] = {}
    substitutes = {
        name.removesuffix(STAND_IN): counters.pop(name) for name in list(counters) if name.endswith(STAND_IN)
    }
    for stream, readings in counters.items():
        pieces[stream] = _counter_pieces(readings, observed)
        others = [c for name, group in counters.items() if name != stream for c in group]
        begins[stream], ends[stream] = readings[0].since, _ended_at(readings, others)
        if stream not in substitutes:
            came, gone = _came_at(readings[0].observed_at, observed), _gone_at(readings[-1].observed_at, observed)
            begins[stream] = max(filter(None, (begins[stream], came)), default=None)
            ends[stream] = min(filter(None, (ends[stream], gone)), default=None)
    for stream, readings in substitutes.items():
        alone = stream not in counters
        pieces[stream] = _standing_in(
            pieces.get(stream, ()), counters.get(stream, ()), _counter_pieces(readings, observed)
        )
        if alone:
            counters[stream], begins[stream], ends[stream] = readings, readings[0].since, None
    for stream, reported in buckets.items():
        pieces[stream] = _without_overlap([_Piece(b.window, b.amounts, b.provenance) for b in reported])
        # A bucket begins where the node was last read before: what a stream that joins earned is all in it.
        first = min(b.window.start for b in reported)
        begins[stream] = first if _came_at(first, observed) else None
        ends[stream] = _gone_at(max(b.window.end for b in reported), observed)
    fine = {stream: [p for p in found if not _is_long(p)] for stream, found in pieces.items()}
    return _Streams(pieces, fine, counters.keys(), begins, ends)


def _is_long(piece: _Piece) -> bool:
    return piece.window.end - piece.window.start > MAX_GAP


def _meet(one: Window, other: Window) -> bool:
    return max(one.start, other.start) < min(one.end, other.end)


def _floor(moment: datetime, step: timedelta) -> datetime:
    hour = hour_of(moment)
    return hour + (moment - hour) // step * step


def _steps(streams: _Streams, window: Window, step: timedelta) -> list[_Piece]:
    """The full steps of `window`."""
    found: list[_Piece] = []
    start = _floor(window.start, step)
    while start + step <= window.end:
        span = Window(start, start + step)
        found.append(_step(span, streams) or _Piece(span, Amounts(), Provenance.UNKNOWN))
        start += step
    return found


def _buckets_of_their_own(streams: _Streams, window: Window) -> list[_Piece]:
    """Longer buckets of streams that have no others, those of the same time added up."""
    coarse: dict[Window, list[_Piece]] = defaultdict(list)
    for stream, found in streams.pieces.items():
        for piece in found:
            if not streams.runs_on(stream) and _meet(piece.window, window):
                coarse[piece.window].append(piece)
    return [_sum(span, group) for span, group in coarse.items()]


def _sum(span: Window, parts: Sequence[_Piece]) -> _Piece:
    return _Piece(span, _combine([p.amounts for p in parts]), _worst(p.provenance for p in parts))


def _stretches(streams: _Streams, step: timedelta) -> list[_Piece]:
    """The stretches too coarse for steps, in order: each with all that the node's streams earned in it.

    They reach to the full steps around, for a step that is known in part only has no amount of its own. Two that
    begin and end within a step share what lies between: it goes to the earlier one.
    """
    groups = _gaps_together(streams)
    found: list[_Piece] = []
    for number, (span, gaps) in enumerate(groups):
        first, last = _floor(span.start, step), _floor(span.end, step)
        # A step that is known, but for a sliver, stays as it is.
        from_known, to_known = (_step(Window(begun, begun + step), streams) is not None for begun in (first, last))
        inner = Window(first + step if from_known else span.start, last if to_known else span.end)
        inside = [part for short in streams.fine.values() for p in short if (part := _share_of(p, inner))]
        stretch = _taking_in(_sum(span, gaps), inside, span)
        earliest = span.start if from_known else max(first, found[-1].window.end) if found else first
        # An end this close to the full step counts as read at it.
        latest = span.end if to_known or span.end - last <= EDGE_TOLERANCE else last + step
        if number + 1 < len(groups):
            latest = min(latest, groups[number + 1][0].start)
        for side in (Window(earliest, span.start), Window(span.end, latest)):
            if side.start < side.end and (part := _step(side, streams)):
                whole = Window(min(side.start, stretch.window.start), max(side.end, stretch.window.end))
                stretch = _taking_in(stretch, [part], whole)
        found.append(stretch)
    return found


def _gaps_together(streams: _Streams) -> list[tuple[Window, list[_Piece]]]:
    """The longer pieces of all streams that run on, in order; those that overlap as one."""
    gaps = sorted(
        (p for stream, found in streams.pieces.items() if streams.runs_on(stream) for p in found if _is_long(p)),
        key=lambda p: (p.window.start, p.window.end),
    )
    groups: list[tuple[Window, list[_Piece]]] = []
    for gap in gaps:
        start, end = gap.window.start, gap.window.end
        # Streams are not read at quite the same moment.
        if groups and start < groups[-1][0].end - EDGE_TOLERANCE:
            span, group = groups[-1]
            groups[-1] = (Window(span.start, max(span.end, end)), [*group, gap])
        else:
            groups.append((Window(max(start, groups[-1][0].end) if groups else start, end), [gap]))
    return groups


def _taking_in(stretch: _Piece, parts: Sequence[_Piece], span: Window) -> _Piece:
    """`stretch` grown to `span` by what was earned there; as it is where that would make unknown what is known."""
    grown = _sum(span, [stretch, *parts])
    lost = any(getattr(stretch.amounts, k) is not None and getattr(grown.amounts, k) is None for k in _KINDS)
    return stretch if lost else grown


def _without_overlap(pieces: list[_Piece]) -> list[_Piece]:
    """Buckets in order of time; of two that overlap the earlier reading stands and the later one is cut."""
    kept: list[_Piece] = []
    for piece in sorted(pieces, key=lambda p: (p.window.start, p.window.end)):
        if kept and piece.window.start < kept[-1].window.end:
            cut = _share_of(piece, Window(kept[-1].window.end, max(kept[-1].window.end, piece.window.end)))
            if cut is None:
                continue
            kept.append(cut)
        elif piece.window.end > piece.window.start:
            kept.append(piece)
    return kept


def _step(span: Window, streams: _Streams) -> _Piece | None:
    """All streams of a node in one full step; None as soon as one that still runs is not covered."""
    parts: list[_Piece] = []
    for stream, short in streams.fine.items():
        if not streams.runs_on(stream):
            # They tell nothing of the hours outside of them.
            if any(_share_of(piece, span) for piece in streams.pieces[stream]):
                return None
            continue
        starts = [p.window.start for p in short]
        near = short[max(0, bisect_right(starts, span.start) - 1) : bisect_right(starts, span.end)]
        inside = [part for part in (_share_of(p, span) for p in near) if part is not None]
        covered = sum(((p.window.end - p.window.start) for p in inside), timedelta(0))
        began, ended = streams.begins[stream], streams.ends[stream]
        must_from = span.start if began is None else max(span.start, began)
        must_to = span.end if ended is None else min(span.end, ended)
        if must_to - must_from - covered > EDGE_TOLERANCE:
            return None
        parts += inside
    return _sum(span, parts) if parts else None
