"""The layout ``windows``: a PFX file, and a PowerShell script that puts it into the machine's certificate store."""

from __future__ import annotations

from hashlib import sha1, sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.directory import Permissions
from birthmark.adapters.targets.fileforms import P12Form
from birthmark.adapters.targets.identity import Certificates
from birthmark.errors import DeviceFault, Refused
from birthmark.pki.algorithms import algorithm_of
from birthmark.ports import Credential

__all__ = ["PFX_FILE", "SCRIPT_FILE", "WindowsForm", "import_script"]

PFX_FILE = "device.pfx"
SCRIPT_FILE = "install-identity.ps1"

_PUBLIC = 0o644
_ECDSA = ("ECDsaCertificateExtensions", "ECDsa", "$challenge, $sha256")
_RSA = ("RSACertificateExtensions", "RSA", "$challenge, $sha256, [Security.Cryptography.RSASignaturePadding]::Pkcs1")
_CALLS = {"p256": _ECDSA, "p384": _ECDSA, "rsa2048": _RSA, "rsa3072": _RSA}
"""Key algorithm → what the .NET class library calls it, and the arguments of signing."""

_SCRIPT = """\
#Requires -Version 5.1
#Requires -RunAsAdministrator
<#
Puts the identity of device {device_serial} into the certificate store of this computer and checks that it works.
This file holds no secret. It asks for the passphrase of device.pfx, or takes it from -Passphrase.
The key cannot be exported afterwards. Delete device.pfx when this script has ended well.
Without PowerShell, certutil asks for the passphrase itself, and checks nothing:
    certutil -f -importpfx My device.pfx NoExport
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [System.Security.SecureString] $Passphrase
)
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$deviceSerial = '{device_serial}'
$thumbprint = '{thumbprint}'
$wantedSha256 = '{sha256}'
$store = 'Cert:\\LocalMachine\\My'
$sha256 = [Security.Cryptography.HashAlgorithmName]::SHA256

$pfx = Join-Path -Path $PSScriptRoot -ChildPath 'device.pfx'
$null = Import-PfxCertificate -FilePath $pfx -CertStoreLocation $store -Password $Passphrase

$certificate = Get-Item -LiteralPath (Join-Path -Path $store -ChildPath $thumbprint)
$digest = [Security.Cryptography.SHA256]::Create().ComputeHash($certificate.RawData)
if ([BitConverter]::ToString($digest).Replace('-', '') -ne $wantedSha256) {{
    throw "The certificate $thumbprint in the store is not that of device $deviceSerial."
}}
if (-not $certificate.HasPrivateKey) {{
    throw "The certificate of device $deviceSerial has no private key in the store."
}}

$key = [Security.Cryptography.X509Certificates.{extensions}]::Get{family}PrivateKey($certificate)
if ($key.Key.ExportPolicy -ne [Security.Cryptography.CngExportPolicies]::None) {{
    throw "The private key of device $deviceSerial can be exported."
}}
$challenge = New-Object -TypeName byte[] -ArgumentList 32
[Security.Cryptography.RandomNumberGenerator]::Create().GetBytes($challenge)
$signature = $key.SignData({signing})
$public = [Security.Cryptography.X509Certificates.{extensions}]::Get{family}PublicKey($certificate)
if (-not $public.VerifyData({verifying})) {{
    throw "The private key in the store is not that of the certificate of device $deviceSerial."
}}
Write-Output "PASS $deviceSerial $thumbprint"
"""


class WindowsForm(P12Form):
    """Implements ``FileForm``; ``device.pfx`` is the commit point, and the script beside it is always that of it."""

    _file = PFX_FILE

    def check_credential(self, credential: Credential, certificates: Certificates) -> None:
        super().check_credential(credential, certificates)
        import_script(credential.device_serial, certificates.device)

    def install(self, credential: Credential, certificates: Certificates) -> None:
        script = import_script(credential.device_serial, certificates.device)
        found = self._directory.read(SCRIPT_FILE)
        if found is None or found.data != script:
            # Without this a power cut would leave the old identity beside the new script.
            self._directory.remove(PFX_FILE)
            self._directory.write(SCRIPT_FILE, script, Permissions(_PUBLIC, self._permissions.owner))
        else:
            self._directory.sync(SCRIPT_FILE)
        super().install(credential, certificates)

    def read_all(self) -> tuple[Any, tuple[x509.Certificate, ...]]:
        key, certificates = super().read_all()
        found = self._directory.read(SCRIPT_FILE)
        names = [] if found is None else [line for line in found.data.splitlines() if line.startswith(b"$deviceSerial")]
        serial = names[0].split(b"'")[1].decode("ascii", "replace") if names and b"'" in names[0] else ""
        if found is None or found.data != import_script(serial, certificates[0]):
            raise DeviceFault(
                "target.script.damaged",
                f"{SCRIPT_FILE} is not the one that belongs to {PFX_FILE}",
                hint="Provision the device again; run no script that was changed.",
                file=SCRIPT_FILE,
            )
        return key, certificates


def import_script(device_serial: str, certificate: x509.Certificate) -> bytes:
    """Return the script: ASCII, CR LF. It holds the device serial and digests of the certificate, nothing secret.

    ``Refused("target.windows.algorithm")`` for keys that no key storage provider of Windows takes.
    """
    algorithm = algorithm_of(certificate.public_key())
    calls = _CALLS.get(algorithm.name)
    if calls is None:
        raise Refused(
            "target.windows.algorithm",
            f"Windows keeps no {algorithm.title} keys in its certificate store",
            hint="Use a product with P-256, P-384 or RSA keys for Windows devices.",
            algorithm=algorithm.name,
        )
    der = certificate.public_bytes(Encoding.DER)
    extensions, family, signing = calls
    verifying = signing.replace("$challenge", "$challenge, $signature", 1)
    text = _SCRIPT.format(
        device_serial=device_serial,
        thumbprint=sha1(der, usedforsecurity=False).hexdigest().upper(),
        sha256=sha256(der).hexdigest().upper(),
        extensions=extensions,
        family=family,
        signing=signing,
        verifying=verifying,
    )
    return text.replace("\n", "\r\n").encode("ascii", "replace")
