"""The handlers that hand out identities and tell of orders and devices."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from birthmark.errors import BirthmarkError, Refused, Unavailable
from birthmark.model.device import DeviceState
from birthmark.model.ids import parse_device_serial, parse_order_id
from birthmark.pki.csr import plain_csr
from birthmark.ports import CredentialRequest
from birthmark.shell.api.answers import json_response
from birthmark.shell.api.callers import Caller
from birthmark.shell.api.service import Service, read_body
from birthmark.wire.service import MAX_REQUEST_OCTETS, DeviceShown, OrdersShown, read_asked
from birthmark.wire.vault import VaultRecipient
from birthmark.workflow.handout import known_device, stored_certificate
from birthmark.workflow.line.handover import credential_answer, order_facts, site_recipient
from birthmark.workflow.line.issuebatch import Asked

__all__ = ["post_credential", "show_device", "show_orders"]

_HAS_CERTIFICATE = frozenset({DeviceState.ISSUED, DeviceState.INSTALLED, DeviceState.VERIFIED})


async def post_credential(service: Service, request: Request, caller: Caller | None) -> Response:
    """Give a device of the caller's site its identity; the same attempt gets the same answer for ever."""
    station = _station(caller)
    asked = read_asked(await read_body(request, MAX_REQUEST_OCTETS))
    credential_request = CredentialRequest(asked.attempt, station.name, asked.device_serial, asked.csr)
    # The usual request is read here, while the writer waits for the disk; any other takes longer, and is read there.
    csr = None if asked.csr is None else plain_csr(asked.csr)
    answer = await service.batcher.submit(Asked(credential_request, station.site or "", station.spki_sha256, csr))
    if isinstance(answer.error, Refused) and answer.error.code == "service.access.ended":
        # From now on it is turned away at the door: not every try of a withdrawn key becomes an entry of the log.
        service.callers.forget(station.spki_sha256)
    if answer.error is not None:
        raise answer.error if isinstance(answer.error, BirthmarkError) else _unexpected(answer.error)
    if answer.credential is None or answer.order is None:
        raise RuntimeError("an answer without an error has a credential")
    recipient = None
    if answer.credential.private_key is not None:
        recipient = _recipient(service, station.site or "")
    workspace = service.workspace
    return json_response(
        credential_answer(asked.attempt, answer.credential, answer.order, recipient, workspace.entropy)
    )


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


def _unexpected(problem: Exception) -> Unavailable:
    """A defect is told without its words: they may hold what nobody outside should read."""
    return Unavailable(
        "service.failed",
        f"the service could not finish this request ({type(problem).__name__})",
        hint="Send the same request again; if it repeats, tell the authority the time.",
    )
