"""The routes: the whole of what the service offers, in one list. The OpenAPI description is made from it."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from birthmark.model.siteevents import Role
from birthmark.shell.api.callers import Caller
from birthmark.shell.api.credentials import ask_credential, post_credential, show_device, show_orders
from birthmark.shell.api.public import get_ca, get_crl, get_log, get_order_file
from birthmark.shell.api.reports import post_report
from birthmark.shell.api.service import ANYBODY, Offer, Service
from birthmark.wire.service import CredentialAnswer, CredentialAsked, DeviceShown, OrdersShown, ReportTaken

__all__ = ["ROUTES"]

_STATION: frozenset[Role] = frozenset({"station"})
_INSIDERS: frozenset[Role] = frozenset({"operator", "approver", "auditor", "station"})
_KNOWN: frozenset[Role] = frozenset({"operator", "approver", "auditor", "station", "server"})


async def _health(service: Service, request: Request, caller: Caller | None) -> Response:
    return Response(b"ok\n", media_type="text/plain")


async def _ready(service: Service, request: Request, caller: Caller | None) -> Response:
    service.workspace.ledger.head()
    status = 503 if service.batcher.failed else 200
    return Response(b"ready\n" if status == 200 else b"not ready\n", status, media_type="text/plain")


async def _metrics(service: Service, request: Request, caller: Caller | None) -> Response:
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


async def _openapi(service: Service, request: Request, caller: Caller | None) -> Response:
    from birthmark.shell.api.openapi import openapi_document

    return Response(msgspec.json.encode(openapi_document(ROUTES)), media_type="application/json")


_BINARY = ("application/octet-stream",)
_PLAIN = ("text/plain",)

ROUTES: tuple[Offer, ...] = (
    Offer(
        "POST",
        "/v1/credentials",
        "Give a device of the caller's site its identity; the same attempt gets the same answer for ever.",
        _STATION,
        post_credential,
        CredentialAnswer,
        CredentialAsked,
        (400, 404, 409, 413, 415, 422, 429, 500, 503),
        fresh=False,
        ask=ask_credential,
    ),
    Offer("GET", "/v1/orders", "Orders: a station sees those of its site.", _INSIDERS, show_orders, OrdersShown),
    Offer(
        "GET",
        "/v1/orders/{order}/{kind}",
        "The sealed bundle or the signed manifest of an order; kind is bundle or manifest.",
        _INSIDERS,
        get_order_file,
        _BINARY,
        None,
        (400, 404),
    ),
    Offer(
        "GET",
        "/v1/devices/{device_serial}",
        "What became of a device: a station sees those of its site.",
        _INSIDERS,
        show_device,
        DeviceShown,
        None,
        (400, 404),
    ),
    Offer(
        "POST",
        "/v1/reports",
        "Take in a report (docs/formats/report.md) of the caller's site.",
        _STATION,
        post_report,
        ReportTaken,
        "application/octet-stream",
        (403, 409, 413, 415, 422, 500, 503),
    ),
    Offer(
        "GET",
        "/ca/{name}.{form}",
        "The certificate of a CA; form is pem or der.",
        ANYBODY,
        get_ca,
        ("application/pkix-cert", "application/x-pem-file"),
        None,
        (404,),
    ),
    Offer("GET", "/crl/{name}.crl", "The CRL of a CA.", ANYBODY, get_crl, ("application/pkix-crl",), None, (404,)),
    Offer(
        "GET",
        "/log/{path:path}",
        "Checkpoint, tiles and entry bundles of the log (c2sp.org/tlog-tiles).",
        ANYBODY,
        get_log,
        (*_BINARY, *_PLAIN),
        None,
        (403, 404),
    ),
    Offer("GET", "/healthz", "The process answers.", ANYBODY, _health, _PLAIN),
    Offer("GET", "/readyz", "The ledger can be written.", ANYBODY, _ready, _PLAIN, None, (503,)),
    Offer("GET", "/metrics", "Counters in the text format of Prometheus.", _KNOWN, _metrics, _PLAIN),
    Offer("GET", "/openapi.json", "This description.", ANYBODY, _openapi, ("application/json",)),
)
