"""Seconds of an all-reduce from a table of links: latency and bandwidth inside a node and across nodes.

Hierarchical: rings inside every node, then one ring across nodes for each of its devices' shares, so that a device
sends 2 (g - 1) / g of the payload inside and 2 (k - 1) / k / g of it across, for g devices a node and k nodes.
"""

import math
from dataclasses import dataclass

from harness.plan.errors import UserError
from harness.statistics.step_model import ring_share


@dataclass(frozen=True)
class Link:
    """One level."""

    latency_s: float
    bytes_per_s: float  # of one device, in one direction

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise UserError(f"latency_s must be a number >= 0, not {self.latency_s}")
        if not (math.isfinite(self.bytes_per_s) and self.bytes_per_s > 0):
            raise UserError(f"bytes_per_s must be a number > 0, not {self.bytes_per_s}")


@dataclass(frozen=True)
class Hardware:
    """What conf/hardware/NAME.yaml says of a machine."""

    name: str
    source: str
    per_node: int
    inside: Link
    across: Link | None = None  # None: one node is all there is
    price_per_device_hour: float | None = None

    def __post_init__(self) -> None:
        if self.per_node < 1:
            raise UserError(f"per_node must be >= 1, not {self.per_node}")
        price = self.price_per_device_hour
        if price is not None and not (math.isfinite(price) and price > 0):
            raise UserError(f"price_per_device_hour must be a number > 0 or null, not {price}")

    def all_reduce_s(self, devices: int, payload_bytes: float) -> float:
        """Of one payload over so many devices; infinite where nothing links their nodes."""
        inside, nodes = min(devices, self.per_node), math.ceil(devices / self.per_node)
        seconds = 0.0
        if inside > 1:
            seconds += self.inside.latency_s + ring_share(inside) * payload_bytes / self.inside.bytes_per_s
        if nodes > 1:
            if self.across is None:
                return math.inf
            shared = payload_bytes / self.per_node
            seconds += self.across.latency_s + ring_share(nodes) * shared / self.across.bytes_per_s
        return seconds
