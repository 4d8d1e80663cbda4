"""`[nodes.options]` of a Streamr node."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import Field

from orcha_pipeline.protocols.base import AdapterOptions

Fraction = Annotated[Decimal, Field(ge=0, le=1, allow_inf_nan=False)]
Address = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]


class StreamrOptions(AdapterOptions):
    """Where the operator's account is read, whose it is, and how the node is changed.

    `rpc_url`: a JSON-RPC server of Polygon, for the wallets' gas and for the earnings while the subgraph fails.
    `gas_wallets`: the nodes' wallets; without it those that the operator's contract names.
    `fleet_nodes`: how many nodes serve this operator; of an only node it is known which streams it must serve.
    `config_file`: the node's JSON config on this machine; without
    it the sponsorship count is unknown. `self_delegation_share`: the operator's own part of what is delegated to
    him; the rest of the profit is others'.
    """

    subgraph_url: str
    operator: Address
    rpc_url: str | None = None
    gas_wallets: list[Address] | None = None
    minimum_pol: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)] = Decimal("0.5")
    fleet_nodes: Annotated[int, Field(ge=1)] | None = None
    config_file: Path | None = None
    self_delegation_share: Fraction = Decimal(1)
    full_share_sponsorships: Annotated[int, Field(ge=1)] = 20
    restart_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 15.0
    restarts_per_month: Annotated[int, Field(ge=1)] = 30
