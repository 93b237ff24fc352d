"""Create an order: which devices shall exist, named one by one, each of them once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

from birthmark.errors import Refused
from birthmark.model.events import DevicesOrdered, KeyOrigin, OrderCreated, utc_text
from birthmark.model.ids import OrderId, parse_device_serial
from birthmark.pki.profile import Profile
from birthmark.ports import Clock, Ledger
from birthmark.workflow.orders.orderterms import values_digest

__all__ = ["CHUNK_SIZE", "NewOrder", "create_order", "order_facts", "serial_range"]

CHUNK_SIZE = 512
_SLOW_CHUNK_SIZE = 16
"""Devices a chunk whose keys take tens of milliseconds each (RSA): all workers then share an order evenly."""
"""Devices that are reserved, signed and stored together: 512 reservations of 72 octets fit into one log entry."""

_MAX_ORDER = 10_000_000
_NUMBERED = re.compile(r"(.*?)([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class NewOrder:
    """What an order says besides its devices."""

    order: OrderId
    product: str
    profile: Profile
    key_algorithm: str
    key_origin: KeyOrigin
    ca: str
    by: str


def serial_range(first: str, quantity: int) -> Iterator[str]:
    """Yield ``quantity`` device serials from ``first`` on, counting its last digits up, their width kept."""
    match = _NUMBERED.fullmatch(first)
    if match is None or quantity < 1 or len(str(int(match[2]) + quantity - 1)) > len(match[2]):
        raise Refused(
            "order.range.malformed",
            f"{quantity} device serials do not fit behind {first[:80]!r}",
            hint="Give a first serial that ends in enough digits, for example TH-000001.",
            first=ascii(first[:80]),
            quantity=quantity,
        )
    head, digits = match[1], match[2]
    return (f"{head}{number:0{len(digits)}}" for number in range(int(digits), int(digits) + quantity))


def order_facts(order: NewOrder, device_serials: Sequence[str], values: Mapping[str, str]) -> dict[str, str]:
    """Return what a plan for this order states: the profile and the product's values as they are now, and SHA-256 of
    the serials, 0x0A between two."""
    return {
        "order": order.order,
        "product": order.product,
        "ca": order.ca,
        "key_algorithm": order.key_algorithm,
        "key_origin": order.key_origin,
        "profile_hash": order.profile.profile_hash().hex(),
        "quantity": str(len(device_serials)),
        "values_sha256": values_digest(values),
        "devices_sha256": sha256("\n".join(device_serials).encode("utf-8", "backslashreplace")).hexdigest(),
    }


def create_order(ledger: Ledger, order: NewOrder, device_serials: Iterable[str], *, clock: Clock) -> int:
    """Record the order and its devices in one transaction; return how many.

    All or nothing: one malformed serial or one that exists refuses the whole order and names the culprits.
    Power cut: the order is there with every device, or not at all.
    """
    if order.key_algorithm not in order.profile.key_algorithms:
        raise Refused(
            "order.algorithm",
            f"profile {order.profile.name} does not allow {order.key_algorithm} keys",
            hint=f"Choose one of: {', '.join(order.profile.key_algorithms)}.",
            profile=order.profile.name,
            key_algorithm=order.key_algorithm,
        )
    serials = _checked(device_serials, order.profile)
    size = min(CHUNK_SIZE, _SLOW_CHUNK_SIZE) if order.key_algorithm.startswith("rsa") else CHUNK_SIZE
    chunks = -(-len(serials) // size)
    at = utc_text(clock())
    with ledger.transaction() as tx:
        tx.append(
            OrderCreated(
                at=at,
                order=order.order,
                product=order.product,
                profile=order.profile.name,
                key_algorithm=order.key_algorithm,
                key_origin=order.key_origin,
                ca=order.ca,
                quantity=len(serials),
                chunks=chunks,
                by=order.by,
            )
        )
        for chunk in range(chunks):
            first = chunk * size
            part = serials[first : first + size]
            event = DevicesOrdered(at=at, order=order.order, chunk=chunk, first=first, count=len(part))
            tx.append(event, "\n".join(part).encode("ascii"))
    return len(serials)


def _checked(device_serials: Iterable[str], profile: Profile) -> Sequence[str]:
    """Return the serials, all well formed, all different; else one refusal that names the first culprits."""
    serials = list(islice(device_serials, _MAX_ORDER + 1))
    if not serials or len(serials) > _MAX_ORDER:
        raise Refused(
            "order.quantity",
            f"an order has 1 to {_MAX_ORDER:,} devices",
            hint="Split a larger lot into several orders.",
            quantity=len(serials),
        )
    rule = profile.device_serial
    pattern = re.compile(rule.pattern if rule is not None else ".*", re.ASCII)
    malformed = [text for text in serials if not (_is_device_serial(text) and pattern.fullmatch(text))]
    if malformed:
        raise Refused(
            "order.serial.malformed",
            f"{len(malformed)} device serials cannot be used, the first is {malformed[0][:80]!r}",
            hint=f"Profile {profile.name} takes 1 to 64 letters, digits and . _ : - that match its name rule.",
            device_serials=[ascii(text[:80]) for text in malformed[:20]],
            profile=profile.name,
        )
    ignore_case = rule is not None and rule.unique == "case-insensitive"
    counts = Counter(text.casefold() if ignore_case else text for text in serials)
    twice = sorted(text for text, count in counts.items() if count > 1)
    if twice:
        raise Refused(
            "order.serial.duplicate",
            f"{len(twice)} device serials stand twice in this order, the first is {twice[0]}",
            hint="Take them out of the list; one device serial has one identity.",
            device_serials=twice[:20],
            orders=[],
        )
    return serials


def _is_device_serial(text: str) -> bool:
    try:
        parse_device_serial(text)
    except Refused:
        return False
    return True
