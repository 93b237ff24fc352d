"""What two of the demo's factories do at night, with the keys and the program that they rightly hold."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from birthmark.errors import BirthmarkError
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.workflow.orders.order import serial_range

if TYPE_CHECKING:
    from birthmark.shell.demo.factories import Factories, Site

__all__ = ["NIGHT_DEVICES", "TWINS", "copy_machine", "make_twins", "night_shift", "try_next_order"]

NIGHT_DEVICES = 5
"""Devices that nobody ordered."""
TWINS = 3
"""Devices that are made a second time."""


def copy_machine(factories: Factories, site: Site) -> str:
    """Restore the image of a factory's machine on another one; return its name."""
    name = f"{site.name}-copy"
    shutil.copytree(factories.root(site.name), factories.root(name))
    return name


def make_twins(factories: Factories, site: Site, machine: str) -> int:
    """Give the identities of the first devices to other devices, on the copied machine; return how many passed."""
    return factories.provision(site, site.serials[:TWINS], machine=machine)


def night_shift(factories: Factories, site: Site) -> int:
    """Order devices for itself at a factory that holds a CA, and make them; return how many passed."""
    serials = list(serial_range("x-000001", NIGHT_DEVICES))
    with open_workspace(factories.root(site.name)) as workspace:
        ca = workspace.records.order(site.order).ca
        factories.create_order(workspace, "night", serials, site.key_origin, ca=ca)
    return factories.provision(site, serials)


def try_next_order(factories: Factories, site: Site) -> BirthmarkError | None:
    """Try to hand a factory its order once more; return the refusal, None if it went through."""
    try:
        factories.seal(site, site.order)
    except BirthmarkError as refusal:
        return refusal
    return None
