"""From the URI of a target to TLS as the device in it: one place that knows which keys TLS can use, and how."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.errors import Misconfigured
from birthmark.workflow.handout import known_device, stored_certificate

if TYPE_CHECKING:
    from collections.abc import Callable

    from birthmark.ports import Credential
    from birthmark.ports.admission import DeviceTls
    from birthmark.shell.workspace.wiring import Workspace
    from birthmark.workflow.line.stationpost import StationPost

__all__ = ["ca_of", "held_identity", "identity_at", "is_born", "require_usable"]


def ca_of(post: StationPost, device_serial: str) -> str:
    """Return the name of the CA that signs for a device; ``Refused("device.unknown")``."""
    order = post.records.order(known_device(post.records, device_serial).order)
    return "" if order is None else order.ca


def is_born(post: StationPost, device_serial: str) -> bool:
    """Say whether the key of a device is made in it; not of one that stands in no order."""
    device = post.records.device(device_serial)
    order = None if device is None else post.records.order(device.order)
    return order is not None and order.key_origin == "device"


def require_usable(uri: str) -> None:
    """Return if TLS can use the key of a device at ``uri``, else ``Misconfigured("handshake.target")``."""
    scheme, _, rest = uri.partition(":")
    options = dict(item.partition("=")[::2] for item in rest.partition("?")[2].split("&"))
    if scheme in _MAKERS and (scheme != "files" or options.get("layout", "pem") == "pem"):
        return
    raise Misconfigured(
        "handshake.target",
        f"no TLS connection can be made from the target {uri[:200]}",
        hint="Use files: with layout=pem, pkcs11: or tpm2:, or leave --handshake and --cloud out.",
        target=uri[:200],
    )


def identity_at(workspace: Workspace, post: StationPost, device_serial: str, uri: str) -> DeviceTls:
    """Return the identity that lies at ``uri``; ``Misconfigured("handshake.target")`` where TLS cannot use it."""
    require_usable(uri)
    return _MAKERS[uri.partition(":")[0]](workspace, post, device_serial, uri)


def _in_files(workspace: Workspace, post: StationPost, device_serial: str, uri: str) -> DeviceTls:
    from birthmark.adapters.devicetls import FileIdentity
    from birthmark.adapters.targets.uri import decoded

    directory = Path.cwd() / decoded(uri, uri.partition(":")[2].partition("?")[0])
    return FileIdentity(directory / "device.crt", directory / "device.key")


def _in_token(workspace: Workspace, post: StationPost, device_serial: str, uri: str) -> DeviceTls:
    from birthmark.adapters.devicetls import TokenIdentity
    from birthmark.adapters.pkcs11_uri import parse_pkcs11_uri

    path, _, query = uri.partition("?")
    kept = "&".join(item for item in query.split("&") if not item.startswith("chain="))
    token = parse_pkcs11_uri(f"{path}?{kept}", base=Path.cwd())
    return TokenIdentity(
        module=token.module,
        token=token.token,
        key_label=token.label or "",
        pin=workspace.secrets(token.pin_source),
        chain=_shown_chain(workspace, post, device_serial),
    )


def _in_tpm(workspace: Workspace, post: StationPost, device_serial: str, uri: str) -> DeviceTls:
    from birthmark.adapters.targets.tpm2 import Tpm2Target

    target = Tpm2Target(uri, secrets=workspace.secrets, base=Path.cwd())
    return target.tls(_shown_chain(workspace, post, device_serial))


_MAKERS: dict[str, Callable[[Workspace, StationPost, str, str], DeviceTls]] = {
    "files": _in_files,
    "pkcs11": _in_token,
    "tpm2": _in_tpm,
}
"""Scheme of a target whose key TLS can use → what makes the identity of the device there."""


def _shown_chain(workspace: Workspace, post: StationPost, device_serial: str) -> tuple[bytes, ...]:
    """Return the certificate on record, and that of the CA that issued it."""
    device = known_device(post.records, device_serial)
    return stored_certificate(post.ledger, device), *workspace.chain(ca_of(post, device_serial))[:1]


def held_identity(credential: Credential | None) -> DeviceTls | None:
    """Return the identity whose key the station still holds, None where it holds none."""
    from birthmark.adapters.devicetls import HeldIdentity

    if credential is None or credential.private_key is None:
        return None
    return HeldIdentity((credential.certificate, *credential.chain[:-1]), credential.private_key)
