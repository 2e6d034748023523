"""Connects to the Ray cluster that RAY_ADDRESS names, or to a new one on this machine."""

import os
import socket
from typing import Any

import ray

from bertline.artifacts.errors import InputError, first_line

ADDRESS = "RAY_ADDRESS"


def connect(**settings: Any) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine.

    Args:
        settings: arguments of `ray.init`.

    Raises:
        InputError: there is no cluster at that address, it runs another version of Ray, or it has no CPU.
    """
    address = os.environ.get(ADDRESS, "")
    _demand_listener(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here sends no usage statistics
    try:
        # without an address, Ray first spends minutes looking for an earlier cluster on this machine
        ray.init(address or "local", logging_level="ERROR", **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        words = first_line(error)
        if words.startswith("No node info found"):
            words = f"this machine is none of the cluster's, and the command has to run on one of them ({words})"
        raise InputError(f"{ADDRESS}={address}: {words}" if address else words) from None
    if not machines():
        ray.shutdown()
        raise InputError("the Ray cluster has no machine with a CPU; start one with ray start --address=…")


def machines() -> list[dict[str, Any]]:
    """Nodes that are alive and have a CPU, as `ray.nodes` describes them."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


def _demand_listener(address: str) -> None:
    """Raise InputError if nothing listens at the address: Ray itself would retry for minutes."""
    host, found, port = address.rpartition("://")[2].rpartition(":")
    if found and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise InputError(f"{ADDRESS}={address}: no Ray cluster at this address ({error})") from None
