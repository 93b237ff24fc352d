"""The handlers of files: CA certificates, CRL, the log, bundles and manifests of orders."""

from __future__ import annotations

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from birthmark.adapters.durable import naming_os_errors
from birthmark.errors import Refused
from birthmark.shell.api.answers import file_response
from birthmark.shell.api.callers import Caller
from birthmark.shell.api.credentials import require_own_order
from birthmark.shell.api.service import Service
from birthmark.shell.sites.bundles import bundle_path, manifest_path

__all__ = ["get_ca", "get_crl", "get_log", "get_order_file"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?")
_LOG_PATH = re.compile(r"checkpoint|vkey|tile/(entries|[0-9]{1,2})/(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?")
_FOR_EVER = "max-age=31536000, immutable"
_HOUR, _FRESH = "public, max-age=3600", "no-cache"
_LOG_READERS = frozenset({"operator", "approver", "auditor"})


async def get_ca(service: Service, request: Request, caller: Caller | None) -> Response:
    """Return the certificate of a CA, PEM or DER."""
    name, form = request.path_params["name"], request.path_params["form"]
    record = service.workspace.records.ca(name) if _NAME.fullmatch(name) and form in ("pem", "der") else None
    if record is None:
        raise _not_found()
    if form == "der":
        return file_response(request, record.certificate, "application/pkix-cert", _HOUR)
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    pem = x509.load_der_x509_certificate(record.certificate).public_bytes(Encoding.PEM)
    return file_response(request, pem, "application/x-pem-file", _HOUR)


async def get_crl(service: Service, request: Request, caller: Caller | None) -> Response:
    """Return the CRL of a CA (DER)."""
    name = request.path_params["name"]
    if not _NAME.fullmatch(name):
        raise _not_found()
    data = _read(service.workspace.root / "ca" / f"{name}.crl")
    return file_response(request, data, "application/pkix-crl", _FRESH)


async def get_log(service: Service, request: Request, caller: Caller | None) -> Response:
    """Return a tile, an entry bundle or the checkpoint (c2sp.org/tlog-tiles)."""
    path = request.path_params["path"]
    if not service.public_log and (caller is None or caller.role not in _LOG_READERS):
        raise Refused(
            "service.role",
            "the log of this workspace is not public",
            hint="Use the certificate of an auditor or operator, or set public_log in [serve].",
        )
    if not _LOG_PATH.fullmatch(path):
        raise _not_found()
    data = _read(service.workspace.root / "log" / path)
    who = "public" if service.public_log else "private"
    if not path.startswith("tile/"):
        return file_response(request, data, "text/plain; charset=utf-8", _FRESH)
    # A partial tile goes when the full one is there; what it says stays true.
    return file_response(request, data, "application/octet-stream", f"{who}, {_FOR_EVER}")


async def get_order_file(service: Service, request: Request, caller: Caller | None) -> Response:
    """Return the bundle or the manifest of an order, if one is sealed."""
    order, kind = request.path_params["order"], request.path_params["kind"]
    if not _NAME.fullmatch(order) or kind not in ("bundle", "manifest"):
        raise _not_found()
    require_own_order(service, caller, order)
    bundle = bundle_path(service.workspace, order)
    path = bundle if kind == "bundle" else manifest_path(bundle)
    if not path.is_file():
        raise _not_found()
    return FileResponse(path, media_type="application/octet-stream", headers={"cache-control": "no-store"})


def _read(path: Path) -> bytes:
    with naming_os_errors(path):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _not_found() from None


def _not_found() -> Refused:
    return Refused(
        "service.not_found",
        "there is nothing at this address",
        hint="See /openapi.json for what there is.",
    )
