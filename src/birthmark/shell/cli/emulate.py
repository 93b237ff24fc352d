"""``birthmark emulate``: clouds on this machine, for tests."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_NEXT = """\
Connection strings of the service and its hubs and the management token are secrets: {directory}/connection.txt (0600).
A device, with azure-iot-device:
  ProvisioningDeviceClient.create_from_x509_certificate(
      provisioning_host="{host}", id_scope="{id_scope}", registration_id=..., x509=X509("chain.pem", "key.pem"),
      server_verification_cert=open("{directory}/root.pem").read()).register()
The service, with azure-iot-deviceprovisioning:
  DeviceProvisioningClient.from_connection_string(
      open("{directory}/connection.txt").readline().strip(), connection_verify="{directory}/root.pem")
Ctrl-C ends it; nothing is kept."""


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    emulate = typer.Typer(help="Clouds on this machine, for tests.", no_args_is_help=True)
    emulate.callback()(_group)
    emulate.command("dps")(dps)
    emulate.command("aws")(aws)
    app.add_typer(emulate, name="emulate")


def _group() -> None:
    """Clouds on this machine, for tests."""


def dps(
    directory: Annotated[
        Path, typer.Option(help="Where root.pem, registry.pem and connection.txt (0600) are written.")
    ] = Path("emulated-dps"),
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    https_port: Annotated[int, typer.Option(help="Port of HTTPS; 0 takes a free one.")] = 0,
    mqtt_port: Annotated[int, typer.Option(help="Port of MQTT; Microsoft's clients know only 8883.")] = 8883,
    id_scope: Annotated[str, typer.Option(help="The ID scope that devices name.")] = "0ne00000000",
    hub: Annotated[list[str] | None, typer.Option(help="A linked IoT hub; may be said again.")] = None,
    lenient_chains: Annotated[
        bool,
        typer.Option(help="Let a device of a group in though no CA of its chain is verified, which Azure never does."),
    ] = False,
) -> None:
    """Run a local Azure Device Provisioning Service until SIGTERM or Ctrl-C; it keeps everything in memory."""
    from birthmark.adapters.durable import write_durably
    from birthmark.adapters.extras import require_extra

    require_extra("emulate", "OpenSSL")
    require_extra("emulate", "h11")
    from birthmark.testing.dps import EmulatedDps

    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with EmulatedDps(
        host=host,
        https_port=https_port,
        mqtt_port=mqtt_port,
        id_scope=id_scope,
        hubs=hub or ["hub.azure-devices.net"],
        verified_chains=not lenient_chains,
    ) as running:
        directory.mkdir(parents=True, exist_ok=True)
        write_durably(directory / "root.pem", running.root_pem.encode(), mode=0o644)
        write_durably(directory / "registry.pem", running.registry.chain_pem("default").encode(), mode=0o644)
        secret = f"{running.connection_string}\nmanagement_token={running.management_token}\n"
        secret += "".join(f"hub:{name}={hub.connection_string}\n" for name, hub in running.hubs.items())
        write_durably(directory / "connection.txt", secret.encode(), mode=0o600)
        print(f"https {host}:{running.https_port}  mqtt {host}:{running.mqtt_port}  files {directory}")
        print(_NEXT.format(host=host, id_scope=id_scope, directory=directory), flush=True)
        signal.sigwait(signals)


def aws(
    directory: Annotated[Path, typer.Option(help="Where root.pem and connection.txt (0600) are written.")] = Path(
        "emulated-aws"
    ),
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the endpoint that SDKs are given; 0 takes a free one.")
    ] = 0,
    mqtt_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of MQTT for devices, without ALPN.")] = 8883,
    alpn_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of MQTT with ALPN; 0 takes a free one, 443 is AWS's.")
    ] = 0,
    endpoint: Annotated[str, typer.Option(help="Name that devices connect to and ask for (SNI).")] = "localhost",
    region: Annotated[str, typer.Option(help="The region whose devices connect.")] = "us-east-1",
) -> None:
    """Run a local AWS IoT until SIGTERM or Ctrl-C; it keeps everything in memory."""
    from birthmark.adapters.durable import write_durably
    from birthmark.adapters.extras import require_extra

    for package in ("OpenSSL", "h11", "moto", "flask", "boto3", "cbor2"):
        require_extra("emulate", package)
    from birthmark.testing.aws import EmulatedAws

    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with EmulatedAws(
        host=host, port=port, mqtt_port=mqtt_port, alpn_port=alpn_port, endpoint=endpoint, region=region
    ) as running:
        directory.mkdir(parents=True, exist_ok=True)
        write_durably(directory / "root.pem", running.root_pem.encode(), mode=0o644)
        told = f"endpoint_url={running.url}\nregion={region}\ncontrol_token={running.control_token}\n"
        write_durably(directory / "connection.txt", told.encode(), mode=0o600)
        ports = f"mqtt {host}:{running.mqtt_port}  alpn {host}:{running.alpn_port}"
        print(f"endpoint {running.url}  {ports}  files {directory}", flush=True)
        signal.sigwait(signals)
