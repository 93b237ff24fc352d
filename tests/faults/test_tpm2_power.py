"""The power of a device with a TPM goes between two acts, and comes back: the same calls go on and end the same way."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509

from birthmark.adapters.targets.proof import proof_message
from birthmark.adapters.targets.tpm2 import Tpm2Target
from birthmark.errors import Unavailable
from birthmark.pki.algorithms import algorithm_of
from support.devicepki import credential_for
from support.fences import OPEN, OpenFence
from support.swtpm import Swtpm, board_state, start_tpm
from support.targets.device import SERIAL
from support.targets.tpm2 import tpm_target


class _CuttingTheTpm(OpenFence):
    """Takes the power of the TPM away before an act; the station lives on and sees a dead link."""

    def __init__(self, tpm: Swtpm, act: int) -> None:
        super().__init__()
        self._tpm = tpm
        self._act = act

    def hold(self) -> None:
        if self.acts == self._act:
            self._tpm.cut()
        super().hold()


def test_killed_between_any_two_acts_the_tpm_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = 0
    while True:
        tpm = start_tpm(tmp_path / f"tpm-{cuts}", monkeypatch, board_state(SERIAL))
        fence = _CuttingTheTpm(tpm, cuts)
        target = tpm_target(tpm.tcti)

        def both(target: Tpm2Target = target, fence: OpenFence = fence) -> None:
            request = target.make_key("p256", SERIAL, fence)
            target.install(credential_for(x509.load_der_x509_csr(request).public_key(), SERIAL), fence)

        with suppress(Unavailable):
            both()
        finished = fence.acts <= cuts
        if not finished:
            tpm.start()
        request = tpm_target(tpm.tcti).make_key("p256", SERIAL, OPEN)
        credential = credential_for(x509.load_der_x509_csr(request).public_key(), SERIAL)
        tpm_target(tpm.tcti).install(credential, OPEN)
        evidence = tpm_target(tpm.tcti).prove(b"after the cut")
        assert (evidence.certificate, evidence.chain) == (credential.certificate, credential.chain)
        public_key = x509.load_der_x509_certificate(credential.certificate).public_key()
        assert evidence.signature is not None
        assert algorithm_of(public_key).verify(public_key, evidence.signature, proof_message(b"after the cut"))
        tpm.cut()
        if finished:
            break
        cuts += 1
    assert cuts > 10
