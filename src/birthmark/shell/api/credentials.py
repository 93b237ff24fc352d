"""The handlers that hand out identities and tell of orders and devices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from birthmark.errors import BirthmarkError, Refused
from birthmark.model.device import DeviceState
from birthmark.model.ids import parse_device_serial, parse_order_id
from birthmark.ports import CredentialRequest
from birthmark.shell.api.answers import json_response, unexpected
from birthmark.shell.api.callers import Caller
from birthmark.shell.api.service import Service, read_body
from birthmark.wire.service import MAX_REQUEST_OCTETS, CredentialAnswer, DeviceShown, OrdersShown, read_asked
from birthmark.wire.vault import VaultRecipient
from birthmark.workflow.handout import known_device, stored_certificate
from birthmark.workflow.line.handover import credential_answer, order_facts, site_recipient
from birthmark.workflow.line.issuebatch import Answer, Asked

__all__ = ["ask_credential", "post_credential", "show_device", "show_orders"]

_HAS_CERTIFICATE = frozenset({DeviceState.ISSUED, DeviceState.INSTALLED, DeviceState.VERIFIED})


async def post_credential(service: Service, request: Request, caller: Caller | None) -> Response:
    """Give a device of the caller's site its identity; the same attempt gets the same answer for ever."""
    told: asyncio.Future[CredentialAnswer | BirthmarkError] = asyncio.get_running_loop().create_future()

    def tell(outcome: CredentialAnswer | BirthmarkError) -> None:
        # A client that went away gets the same answer when it asks again.
        if not told.done():
            told.set_result(outcome)

    ask_credential(service, caller, await read_body(request, MAX_REQUEST_OCTETS), tell)
    outcome = await told
    if isinstance(outcome, BirthmarkError):
        raise outcome
    return json_response(outcome)


def ask_credential(
    service: Service, caller: Caller | None, body: bytes, tell: Callable[[CredentialAnswer | BirthmarkError], None]
) -> None:
    """Ask for the identity of a device; ``tell`` gets what came of it, once it is durable.

    Raises ``Refused``: ``service.role``, ``service.request.malformed``; ``Unavailable("service.busy")``.
    """
    station = _station(caller)
    asked = read_asked(body)
    request = CredentialRequest(asked.attempt, station.name, asked.device_serial, asked.csr)
    service.batcher.submit(
        Asked(request, station.site or "", station.spki_sha256), lambda answer: tell(_outcome(service, answer))
    )


def _outcome(service: Service, answer: Answer) -> CredentialAnswer | BirthmarkError:
    asked, error = answer.asked, answer.error
    try:
        if isinstance(error, Refused) and error.code == "service.access.ended":
            # From now on it is turned away at the door: not every try of a withdrawn key becomes an entry of the log.
            service.callers.forget(asked.access)
        if error is not None:
            raise error
        if answer.credential is None or answer.order is None:
            raise RuntimeError("an answer without an error has a credential")
        recipient = None if answer.credential.private_key is None else _recipient(service, asked.site)
        return credential_answer(
            asked.request.attempt, answer.credential, answer.order, recipient, service.workspace.entropy
        )
    except BirthmarkError as problem:
        return problem
    except Exception as problem:  # noqa: BLE001  it is told to the one who asked, and to nobody else
        return unexpected(problem)


async def show_orders(service: Service, request: Request, caller: Caller | None) -> Response:
    """Tell the orders of the caller's site; operators and auditors see all."""
    records = service.workspace.records
    if caller is not None and caller.role == "station":
        names = [assignment.order for assignment in records.assignments(caller.site or "")]
        orders = [order for order in map(records.order, names) if order is not None]
    else:
        orders = list(records.orders())
    return json_response(OrdersShown(orders=tuple(map(order_facts, orders))))


async def show_device(service: Service, request: Request, caller: Caller | None) -> Response:
    """Tell what became of a device; stations see those of their own site."""
    records = service.workspace.records
    device = known_device(records, parse_device_serial(request.path_params["device_serial"]))
    require_own_order(service, caller, device.order)
    certificate = None
    if device.state in _HAS_CERTIFICATE and device.issued_seq is not None:
        certificate = stored_certificate(service.workspace.ledger, device)
    shown = DeviceShown(
        device_serial=device.device_serial,
        order=device.order,
        state=str(device.state),
        attempt=device.attempt,
        certificate=certificate,
    )
    return json_response(shown)


def require_own_order(service: Service, caller: Caller | None, order: str) -> None:
    """Return if the caller may see an order: a station only one that is assigned to its site."""
    if caller is None or caller.role != "station":
        return
    assignment = service.workspace.records.assignment(parse_order_id(order))
    if assignment is None or caller.site is None or assignment.site != caller.site:
        raise Refused(
            "service.other_site",
            f"order {order} is not made at site {caller.site}",
            hint="Ask for an order or a device of your own site.",
            site=caller.site,
        )


def _station(caller: Caller | None) -> Caller:
    if caller is None or caller.site is None:
        raise Refused(
            "service.role",
            "only a station of a site is given identities here",
            hint="Use the TLS client certificate of a station; `birthmark site add` makes them.",
        )
    return caller


def _recipient(service: Service, site: str) -> VaultRecipient:
    if site not in service.recipients:
        workspace = service.workspace
        service.recipients[site] = site_recipient(workspace.ledger, workspace.records, site)
    return service.recipients[site]
