"""What can be changed on a Streamr node: its autostaker, by its config and a restart, and the limits of its host."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.errors import AdapterError, AllocationError, UnsupportedError
from orcha_pipeline.model import AllocationReading, AppliedChange, Lever, LeverMode, Provenance
from orcha_pipeline.protocols.config_files import replace_config
from orcha_pipeline.protocols.levers import check_change, lever_range, wait_for
from orcha_pipeline.protocols.os_limits import apply_os_limit, is_os_limit, os_allocation, os_levers
from orcha_pipeline.protocols.streamr_api import Info
from orcha_pipeline.protocols.streamr_config import (
    ASIDE,
    NodeConfig,
    forget_settings,
    keep_settings,
    kept_settings,
    read_node_config,
)
from orcha_pipeline.protocols.streamr_options import StreamrOptions
from orcha_pipeline.settings import NodeSettings

COUNT, AUTOSTAKER = "max_sponsorship_count", "autostaker"
STOP_GRACE_SECONDS = 15
COOLDOWN = timedelta(hours=1)
"""The autostaker looks at its stakes once an hour."""


class StreamrLevers:
    """The levers of one node. `info` reads the node's `/info`."""

    def __init__(
        self, settings: NodeSettings, options: StreamrOptions, controller: Controller, info: Callable[[], Info]
    ) -> None:
        self._settings = settings
        self._options = options
        self._controller = controller
        self._info = info
        self._node = settings.name

    def count(self) -> AllocationReading:
        """Where the count stands in the config file."""
        return self._count_reading(self._config_or_none())

    def readings(self) -> list[AllocationReading]:
        """The count, whether the autostaker runs, and the limits of the host."""
        config = self._config_or_none()
        on = None if config is None else float(config.autostaker is not None)
        readings = [
            self._count_reading(config),
            AllocationReading(
                lever=AUTOSTAKER,
                value=on,
                unit="on",
                share=None,
                provenance=Provenance.UNKNOWN if on is None else Provenance.MEASURED,
                source="streamr config; options.config_file is not set" if on is None else "streamr config",
            ),
        ]
        limits = self._os_levers()
        try:
            in_force = self._controller.limits()
        except AdapterError as error:
            return readings + [
                AllocationReading(
                    lever=lever.name,
                    value=None,
                    unit=lever.unit,
                    share=None,
                    provenance=Provenance.UNKNOWN,
                    source=error.message,
                )
                for lever in limits
            ]
        return readings + [os_allocation(self._settings, in_force, lever, carries_share=False) for lever in limits]

    def _count_reading(self, config: NodeConfig | None) -> AllocationReading:
        count = None if config is None else config.count
        share = None if count is None else count / self._options.full_share_sponsorships
        source = "streamr config"
        if config is None:
            source += "; options.config_file is not set"
        elif config.autostaker is None:
            source += "; the autostaker is off, and the stakes stay as they are"
        elif count is None:
            source += "; plugins.autostaker sets no maxSponsorshipCount"
        return AllocationReading(
            lever=COUNT,
            value=None if count is None else float(count),
            unit="sponsorships",
            share=share,
            provenance=Provenance.UNKNOWN if count is None else Provenance.MEASURED,
            source=source,
        )

    def levers(self) -> list[Lever]:
        """The count, which carries the share; the autostaker; the host's limits."""
        full = float(self._options.full_share_sponsorships)
        bounds = lever_range(self._settings, full=full, step=1.0, floor=1.0)
        config, unusable = self.usable_config()
        kept = config is not None and kept_settings(config.file) is not None
        count_problem = toggle_problem = unusable
        if config is not None and config.autostaker is None:
            count_problem = (
                "the autostaker is off, and the stakes stay as they are"
                if kept
                else f"{config.file} sets no plugins.autostaker.maxSponsorshipCount; enable the autostaker plugin there"
            )
            if not kept:
                toggle_problem = (
                    f"{config.file} has no plugins.autostaker and no settings of it are kept in {ASIDE} beside it; "
                    "write them yourself"
                )
        elif config is not None and config.count is None:
            count_problem = f"{config.file} sets no plugins.autostaker.maxSponsorshipCount; set it there once"
        risks = (
            "leaving a sponsorship before its minimum time costs 5 000 DATA",
            "a single node is open to inspection while it restarts",
            "each change of stake costs gas",
        )
        return [
            self._restart_lever(
                COUNT,
                "sponsorships",
                (bounds.minimum, bounds.maximum, full),
                bounds.problem or count_problem,
                risks,
            ),
            self._restart_lever(
                AUTOSTAKER,
                "on",
                (0.0, 1.0, 1.0),
                toggle_problem,
                ("while it is off nobody moves stake away from a sponsorship that pays no more", *risks[1:2]),
            ),
            *self._os_levers(),
        ]

    def _restart_lever(
        self, name: str, unit: str, bounds: tuple[float, float, float], problem: str, risks: tuple[str, ...]
    ) -> Lever:
        minimum, maximum, full = bounds
        why_not = problem or self._controller.why_cannot_restart()
        return Lever(
            name=name,
            unit=unit,
            mode=LeverMode.RESTART,
            minimum=minimum,
            maximum=maximum,
            step=1.0,
            at_full_share=full,
            cooldown=COOLDOWN,
            restart_seconds=self._options.restart_seconds,
            settle_seconds=self._options.restart_seconds,
            restarts_per_month=self._options.restarts_per_month,
            writable=not why_not,
            why_not=why_not,
            risks=risks,
        )

    def _os_levers(self) -> list[Lever]:
        return os_levers(
            self._settings,
            self._controller,
            first=None,
            risks=("a node too slow for an inspection is flagged, and its stake slashed",),
        )

    def apply(self, lever: str, value: float) -> AppliedChange:
        """Move a lever; see `StreamrAdapter.apply`."""
        found = next((known for known in self.levers() if known.name == lever), None)
        if found is None:
            raise UnsupportedError(self._node, f"there is no lever {lever!r}")
        if is_os_limit(lever):
            return apply_os_limit(self._node, self._controller, found, value)
        check_change(self._node, found, lever, value, floor=0.0 if lever == AUTOSTAKER else 1.0, whole=True)
        config = read_node_config(self._node, self._config_file())
        if lever == AUTOSTAKER:
            return self._switch_autostaker(config, value)
        previous = None if config.count is None else float(config.count)
        self._restart_with(config, config.with_count(int(value)))
        read_back = read_node_config(self._node, config.file).count
        if read_back != value:
            raise AllocationError(self._node, f"asked for {value:g} sponsorships, {config.file} holds {read_back}")
        return AppliedChange(
            lever=lever,
            previous=previous,
            requested=value,
            read_back=value,
        )

    def _switch_autostaker(self, config: NodeConfig, value: float) -> AppliedChange:
        if value not in (0, 1):
            raise AllocationError(self._node, f"{AUTOSTAKER} must be 0 (off) or 1 (on), not {value:g}")
        running = config.autostaker
        kept = kept_settings(config.file)
        if not value:
            if running is not None:
                # Kept first: a crash in between leaves a copy too many, never a setting lost.
                keep_settings(self._node, config.file, running)
            text = config.with_autostaker(None)
        else:
            settings = running if running is not None else kept
            if settings is None:
                raise AllocationError(self._node, f"{ASIDE} beside {config.file} holds no settings to go back to")
            text = config.with_autostaker(settings)
        try:
            self._restart_with(config, text)
        except AdapterError:
            if not value and kept is None and read_node_config(self._node, config.file).autostaker is not None:
                forget_settings(self._node, config.file)
            raise
        read_back = float(read_node_config(self._node, config.file).autostaker is not None)
        if read_back != value:
            raise AllocationError(self._node, f"asked for {AUTOSTAKER} {value:g}, {config.file} holds {read_back:g}")
        if value:
            forget_settings(self._node, config.file)
        return AppliedChange(
            lever=AUTOSTAKER, previous=float(running is not None), requested=value, read_back=read_back
        )

    def _restart_with(self, config: NodeConfig, text: str) -> None:
        """Put `text` in the config's place and restart, until the node answers and its old connections are gone.

        A connection that was open before and still is, by peer and time of opening, says that another process was
        restarted than the one that answers. Then, and where the restart fails, the config is put back: a change that
        waits in the file would come into force with some later, unrelated restart.
        """
        before = self._open_connections()
        replace_config(self._node, config.file, text)
        try:
            self._controller.restart(STOP_GRACE_SECONDS)
        except AdapterError:
            replace_config(self._node, config.file, config.text)
            raise
        answered = False

        def restarted() -> bool | None:
            nonlocal answered
            info = self._info()
            answered = True
            return True if not before & _identities(info) else None

        seconds = self._options.restart_seconds
        if wait_for(restarted, seconds=seconds) is not None:
            return
        if not answered:
            raise AllocationError(self._node, f"/info does not answer {seconds:g} s after the restart; see its log")
        replace_config(self._node, config.file, config.text)
        raise AllocationError(
            self._node,
            f"{self._controller.describe()} was restarted, but the node at its url still has the "
            "connections from before: the controller is another process's. The config was put back",
        )

    def _open_connections(self) -> set[tuple[str, int]]:
        """What a restart must end; empty where the node does not answer, and then nothing can be told by it."""
        try:
            return _identities(self._info())
        except AdapterError:
            return set()

    def _config_file(self) -> Path:
        if self._options.config_file is None:
            raise UnsupportedError(self._node, "options.config_file is not set: name the node's JSON config")
        return self._options.config_file

    def _config_or_none(self) -> NodeConfig | None:
        file = self._options.config_file
        return None if file is None else read_node_config(self._node, file)

    def usable_config(self) -> tuple[NodeConfig | None, str]:
        """The config, or why it must not be changed."""
        try:
            config = read_node_config(self._node, self._config_file())
        except (AllocationError, UnsupportedError) as error:
            return None, error.message
        own = self._options.operator.lower()
        strangers = config.operators - {own}
        if strangers:
            return None, (
                f"{config.file} works for operator {min(strangers)[:42]}, options.operator is {own}: "
                "is it the config of this node?"
            )
        return config, ""


def _identities(info: Info) -> set[tuple[str, int]]:
    """Connections by peer and time of opening, as far as the node tells both."""
    return {
        (c.remote_peer_descriptor.node_id, c.opened_at)
        for c in info.control_layer.transport.connections
        if c.remote_peer_descriptor.node_id is not None and c.opened_at is not None
    }
