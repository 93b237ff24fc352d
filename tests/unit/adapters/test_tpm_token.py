"""The target ``pkcs11`` on a TPM through libtpm2-pkcs11. Judges: `pkcs11-tool`, OpenSSL, SIGKILL."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509

from birthmark.adapters.pkcs11_module import binding, pkcs11_module
from birthmark.adapters.pkcs11_objects import generate_pair
from birthmark.adapters.targets.pkcs11 import Pkcs11Target
from birthmark.adapters.targets.proof import proof_message
from birthmark.errors import StationFault
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from support.devicepki import credential_for
from support.fences import OPEN
from support.softhsm import PIN
from support.swtpm import power_on
from support.targets.device import SERIAL
from support.tpmtoken import TPM_MODULE, TpmToken

URI = f"pkcs11:token={SERIAL};object=idevid?module-path={TPM_MODULE}&pin-source=test:"


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TpmToken]:
    made = TpmToken(tmp_path, SERIAL)
    power_on(made.tpm, monkeypatch)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    pkcs11_module(TPM_MODULE).stop()
    yield made
    pkcs11_module(TPM_MODULE).stop()


def target() -> Pkcs11Target:
    return Pkcs11Target(URI, secrets=lambda _: Secret(PIN.encode()), base=Path())


def install() -> Credential:
    request = x509.load_der_x509_csr(target().make_key("p256", SERIAL, OPEN))
    credential = credential_for(request.public_key(), SERIAL)
    target().install(credential, OPEN)
    return credential


def test_others_see_the_key_in_the_tpm_and_verify_with_it(token: TpmToken, tmp_path: Path) -> None:
    credential = install()
    evidence = target().prove(b"challenge")
    assert evidence.signature is not None
    pem, message, signature = (tmp_path / name for name in ("key.pem", "message", "signature"))
    command = ["openssl", "x509", "-inform", "der", "-pubkey", "-noout", "-out", str(pem)]
    subprocess.run(command, input=credential.certificate, check=True)
    message.write_bytes(proof_message(b"challenge"))
    signature.write_bytes(evidence.signature)
    command = ["openssl", "dgst", "-sha256", "-verify", str(pem), "-signature", str(signature), str(message)]
    subprocess.run(command, check=True, capture_output=True)
    (private,) = (one for one in token.objects() if one.startswith("Private Key Object"))
    assert "sensitive, always sensitive, never extractable, local" in private
    assert "label:      idevid" in private


def test_the_module_makes_no_key_for_who_says_how_its_public_half_is_used(token: TpmToken) -> None:
    """If a later module does, the target may say so again: this is why it does not."""
    module = pkcs11_module(TPM_MODULE)
    with module.lock:
        session = module.library().get_token(token_label=SERIAL).open(rw=True, user_pin=PIN)
        with session, pytest.raises(binding().GeneralError):
            generate_pair(session, "k", b"k", "p256", extractable=False)


def test_a_tpm_without_power_is_a_fault_of_the_station_and_goes_on(token: TpmToken) -> None:
    request = target().make_key("p256", SERIAL, OPEN)
    credential = credential_for(x509.load_der_x509_csr(request).public_key(), SERIAL)
    token.tpm.cut()
    with pytest.raises(StationFault) as caught:
        target().install(credential, OPEN)
    assert caught.value.code.startswith("key.")
    token.tpm.start()
    with suppress(StationFault):
        target().probe()
    target().install(credential, OPEN)
    assert target().prove(b"again").certificate == credential.certificate
