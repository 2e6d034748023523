"""The Ray cluster that RAY_ADDRESS names, or a new one on this machine: connected to, and looked at."""

import os
import socket
from typing import Any

import ray

from bertline.artifacts.errors import InputError

ADDRESS = "RAY_ADDRESS"


def connect(**settings: Any) -> None:
    """To the cluster that is named, or a new one here.

    Args:
        settings: of `ray.init`.

    Raises:
        InputError: there is none at that address, it is of another version of Ray, or it has nothing to compute on.
    """
    address = os.environ.get(ADDRESS, "")
    _demand_listener(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells nobody of itself
    try:
        # without an address, Ray first looks for minutes for one that ran here before
        ray.init(address or "local", logging_level="ERROR", **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"{ADDRESS}={address}: {first_line(error)}" if address else first_line(error)) from None
    if not machines():
        ray.shutdown()
        raise InputError("the Ray cluster has no machine with a CPU; start one with ray start --address=…")


def machines() -> list[dict[str, Any]]:
    """Those that are up and may compute, as `ray.nodes` tells of them."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


def first_line(error: object) -> str:
    """Of what Ray says of an error, which often goes on for a page."""
    return str(error).strip().partition("\n")[0]


def _demand_listener(address: str) -> None:
    """Ask before Ray does, which tries for minutes."""
    host, found, port = address.rpartition("://")[2].rpartition(":")
    if found and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise InputError(f"{ADDRESS}={address}: no Ray cluster is there ({error})") from None
