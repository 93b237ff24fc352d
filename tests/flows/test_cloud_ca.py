"""An issuing CA whose key is in AWS KMS (moto's server): bought, imported, and signing devices in bulk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from moto.server import ThreadedMotoServer

from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from support.seller import Seller, pem

KEY = "aws-kms:alias/device-ca?region=eu-west-1"


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    yield
    server.stop()


def test_a_ca_in_aws_kms_signs_an_order(cloud: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = tmp_path / "fab"
    make_workspace(root)
    text = (root / "birthmark.toml").read_text()
    (root / "birthmark.toml").write_text(re.sub('ca = "issuing"', 'ca = "kms"', text) + f'\n[cas.kms]\nkey = "{KEY}"\n')

    def run(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        code = main([*arguments, "-C", str(root), "--json"])
        document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert code == 0, document
        return document

    run("ca", "csr", "kms", "--subject", "CN=Device CA in a cloud", "--new-key", "p256")
    seller = Seller()
    csr = x509.load_pem_x509_csr((root / "ca" / "kms.csr").read_bytes())
    own = seller.issuing.sign_ca(csr.public_key(), csr.subject)
    (tmp_path / "chain.pem").write_bytes(pem(own, seller.issuing.certificate, seller.root.certificate))
    run("ca", "import", "kms", str(tmp_path / "chain.pem"))
    run("order", "create", "a", "--product", "device", "--quantity", "5", "--first", "SN-1")
    assert run("order", "make", "a", "--processes", "1")["stock"] == 5
    assert run("ca", "crl", "kms")["revoked"] == 0
    assert main(["audit", "verify", str(root)]) == 0
