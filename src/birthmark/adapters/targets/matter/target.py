"""The target ``matter``: factory data with DAC and PAI (docs/targets/matter.md)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from birthmark.adapters.targets.devicename import device_name
from birthmark.adapters.targets.directory import Directory, Permissions
from birthmark.adapters.targets.esp.locks import P256_ORDER
from birthmark.adapters.targets.esp.memory import LARGEST_FLASH
from birthmark.adapters.targets.identity import certificates_of, key_not_made, mismatch, require_key
from birthmark.adapters.targets.matter.data import FactoryData, Shown, damaged_data
from birthmark.adapters.targets.matter.forms import matter_form
from birthmark.adapters.targets.matter.onboarding import Onboarding, new_onboarding, read_onboarding
from birthmark.adapters.targets.matter.product import load_product, require_ids
from birthmark.adapters.targets.proof import sign_proof
from birthmark.adapters.targets.uri import bad_option, decoded, parse_target_uri
from birthmark.errors import DeviceFault, Refused
from birthmark.pki.algorithms import spki_of
from birthmark.pki.certread import UNREADABLE
from birthmark.ports import Credential, Evidence, Fence, Probe, SecretsHandler

__all__ = ["MatterTarget"]

_OPTIONS = ("layout", "product", "form", "flash", "offset", "size", "dac", "dac-offset")
_ONBOARDING = "onboarding.json"
_PRIVATE = Permissions(0o600)
_LONGEST_SERIAL = 32
_SCALAR_OCTETS = 32


class MatterTarget:
    """Implements ``ports.Target`` on ``matter:DIR?product=FILE.toml&layout=esp|nrf``.

    The chain ends with the PAI: a Matter device holds no root. A power cut during ``install`` leaves the old factory
    data or the new; passcode and discriminator are on disk before, and the same call goes on with them.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        parsed = parse_target_uri(uri, scheme="matter", options=_OPTIONS)
        self._name = uri
        if "product" not in parsed.options:
            raise bad_option(parsed, "product", "Name the product file, for example product=lamp.toml.")
        self._product, self._declaration = load_product(base / parsed.options["product"])
        self._directory = Directory(base / decoded(uri, parsed.path), largest=LARGEST_FLASH)
        self._form = matter_form(parsed, self._directory)

    @property
    def place(self) -> str:
        """The directory that stands for the device."""
        return self._directory.place

    def probe(self) -> Probe:
        """Return ``device-id``, or else the name of the directory, as the identity."""
        self._directory.check()
        certificate = None
        with suppress(DeviceFault):
            shown = self._form.read()
            certificate = None if shown is None else _certificate(shown.dac).public_bytes(Encoding.DER)
        return Probe(device_name(self._directory, self._name), certificate, makes_key=False, can_sign=True)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        raise key_not_made(self._name)

    def install(self, credential: Credential, fence: Fence) -> None:
        certificates = certificates_of(credential, chain="issuing")
        key = require_key(credential, certificates)
        require_ids(self._product, certificates.device, certificates.chain[0])
        self._require_plain(credential, key)
        self._directory.check()
        with self._directory.under(fence):
            numbers = self._numbers(credential.device_serial)
            self._form.write(self._data(numbers, key, certificates.device_der, certificates.chain_der[0]))

    def prove(self, challenge: bytes) -> Evidence:
        """Sign with the key in the factory data, after passcode, ids and modes were found to be what they should."""
        self._directory.check()
        shown = self._form.read()
        if shown is None:
            raise DeviceFault(
                "target.key.missing",
                f"there is no identity in {self._name}",
                hint="Provision the device again.",
                target=self._name,
            )
        device, pai = _certificate(shown.dac), _certificate(shown.pai)
        key = ec.derive_private_key(_scalar(shown.dac_key), ec.SECP256R1())
        if spki_of(key.public_key()) != spki_of(device.public_key()):
            raise mismatch(self._name, "the DAC key")
        require_ids(self._product, device, pai)
        self._check_beside(shown, key)
        return Evidence(
            certificate=device.public_bytes(Encoding.DER),
            chain=(pai.public_bytes(Encoding.DER),),
            kind="signature",
            signature=sign_proof(key, challenge),
            key_digest=None,
        )

    def _require_plain(self, credential: Credential, key: object) -> None:
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise Refused(
                "target.key.unsupported",
                "a device attestation key is a P-256 key",
                hint="Use an order with the profile matter-dac.",
            )
        if len(credential.device_serial.encode()) > _LONGEST_SERIAL:
            raise Refused(
                "matter.serial.long",
                f"the device serial {credential.device_serial} has more than {_LONGEST_SERIAL} octets",
                hint="Matter allows 32 (Basic Information cluster); number the order otherwise.",
                device_serial=credential.device_serial,
            )

    def _numbers(self, device_serial: str) -> Onboarding:
        """Return the numbers in the directory; draw them first if there are none. Secret, mode 0600."""
        found = self._directory.read(_ONBOARDING)
        if found is not None:
            numbers = read_onboarding(found.data, self._product, device_serial)
            if not found.has(_PRIVATE):
                self._directory.write(_ONBOARDING, found.data, _PRIVATE)
            return numbers
        numbers = new_onboarding(device_serial, self._product)
        self._directory.write(_ONBOARDING, numbers.document(), _PRIVATE)
        return numbers

    def _data(self, numbers: Onboarding, key: ec.EllipticCurvePrivateKey, dac: bytes, pai: bytes) -> FactoryData:
        private = key.private_numbers().private_value.to_bytes(_SCALAR_OCTETS, "big")
        public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return FactoryData(self._product, self._declaration, numbers, dac, private, public, pai)

    def _check_beside(self, shown: Shown, key: ec.EllipticCurvePrivateKey) -> None:
        """Return if passcode, product and modes fit the factory data, octet for octet."""
        found = self._directory.read(_ONBOARDING)
        numbers = None if found is None else read_onboarding(found.data, self._product, None)
        if numbers is None or numbers.verifier() != shown.verifier:
            raise DeviceFault(
                "matter.passcode.differs",
                f"the passcode in {_ONBOARDING} of {self._name} is not the one its factory data was made for",
                hint="Do not print or ship its label; provision the device again.",
                target=self._name,
            )
        if not self._form.holds(self._data(numbers, key, shown.dac, shown.pai)):
            raise DeviceFault(
                "matter.data.differs",
                f"the factory data of {self._name} is not made of this product file and {_ONBOARDING}",
                hint="Use the product file of its lot; if that is the one, provision the device again as rework.",
                target=self._name,
            )
        if found is None or not found.has(_PRIVATE) or not self._form.is_private():
            raise DeviceFault(
                "target.key.mode",
                f"a file of {self._name} that holds a secret has not mode 0600",
                hint="Check who else writes there, then provision the device again.",
                target=self._name,
            )


def _certificate(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (*UNREADABLE, UnsupportedAlgorithm):
        raise damaged_data() from None


def _scalar(octets: bytes) -> int:
    number = int.from_bytes(octets, "big")
    if len(octets) != _SCALAR_OCTETS or not 0 < number < P256_ORDER:
        raise damaged_data()
    return number
