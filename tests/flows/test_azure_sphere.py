"""An Azure Sphere catalog is made known to a provisioning service: Microsoft's management and device clients judge."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs7

from birthmark.adapters.clouds.azure_sphere import AzureSphereCloud
from birthmark.errors import BirthmarkError, Misconfigured, Refused, Tampered
from birthmark.model.secret import Secret
from birthmark.ports.cloud import Registration
from birthmark.testing.dps import EmulatedCatalog, EmulatedDps
from birthmark.testing.dps.answers import Answer
from support.clouds.azure_dps import DpsService
from support.clouds.azure_sphere import sphere_uri
from support.clouds.fleet import Fleet
from support.dpsservice import ARM, signer, verify_ca
from support.seller import Seller, pem
from support.vendortools import run_tool

SUPPORT = Path(__file__).resolve().parents[1] / "support"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[DpsService]:
    host = f"127.17.{os.getpid() % 200 + 20}.9"  # the client's port is fixed: parallel tests take an address each
    with EmulatedDps(host=host, assigning_s=0.0) as dps:
        yield DpsService(dps, tmp_path)


@pytest.fixture
def catalog(service: DpsService) -> EmulatedCatalog:
    return service.dps.sphere.add(EmulatedCatalog("Gadgets"))


def opened(service: DpsService, **options: str) -> AzureSphereCloud:
    return AzureSphereCloud(sphere_uri(service, **options), secrets=service.secret, base=service.directory)


def prepare(service: DpsService, **options: str) -> list[str]:
    cloud = opened(service, **options)
    try:
        return list(cloud.prepare((), never))
    finally:
        cloud.close()


def never(name: str, code: str) -> bytes:
    raise AssertionError("no key of ours is behind this CA")


def by_hand(service: DpsService, catalog: EmulatedCatalog) -> None:
    """Somebody verifies the catalog's CA in the portal."""
    (own,) = catalog.cas
    verify_ca(service.dps, own.certificate, signer(own.certificate, own.key))


def device(service: DpsService, catalog: EmulatedCatalog, name: str) -> str:
    """Write what the device has today; return it as the client's program takes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    place = service.directory / name
    place.mkdir()
    (place / "chain.pem").write_bytes(pem(*catalog.device(name, key.public_key())))
    with os.fdopen(os.open(place / "key.pem", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return f"{name}={place / 'chain.pem'}={place / 'key.pem'}"


def register(service: DpsService, *devices: str) -> dict[str, str]:
    dps, root = service.dps, service.directory / "dps-root.pem"
    printed = run_tool("azure", "python", SUPPORT / "azuredevices.py", dps.host, dps.id_scope, root, *devices)
    seen = [json.loads(line) for line in printed.splitlines() if line.startswith('{"name"')]
    return {one["name"]: one.get("status") or one["error"] for one in seen}


def openssl(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_microsofts_management_client_reads_the_emulated_catalog(
    service: DpsService, catalog: EmulatedCatalog, tmp_path: Path
) -> None:
    catalog.renew()
    expired = EmulatedCatalog("other").cas[0]
    catalog.add(expired.certificate, expired.key, "Expired")
    (tmp_path / "token").write_text(service.token)
    where, root = f"https://{service.host}", tmp_path / "dps-root.pem"
    printed = run_tool(
        "azure", "python", SUPPORT / "azurespherecatalog.py", where, root, tmp_path / "token", "Gadgets", "A1" * 24
    )
    seen = json.loads(printed.splitlines()[-1])
    assert [one["properties"]["status"] for one in seen["listed"]] == ["Inactive", "Active", "Expired"]
    assert [one["properties"].get("certificate") is None for one in seen["listed"]] == [False, False, True]
    assert (seen["catalog"], seen["active"]) == ("Gadgets", seen["listed"][1]["name"])
    assert seen["missing"] == "404 ResourceNotFound"
    (tmp_path / "proof.der").write_bytes(base64.b64decode(seen["proof"]))
    (tmp_path / "chain.p7b").write_bytes(base64.b64decode(seen["chain"]))
    openssl("pkcs7", "-inform", "DER", "-in", "chain.p7b", "-print_certs", "-out", "chain.pem", cwd=tmp_path)
    (tmp_path / "catalog-root.pem").write_bytes(pem(catalog.root))
    trust = ("-x509_strict", "-CAfile", "catalog-root.pem", "-untrusted", "chain.pem")
    openssl("verify", *trust, "proof.der", cwd=tmp_path)
    subject = openssl("x509", "-inform", "DER", "-in", "proof.der", "-noout", "-subject", cwd=tmp_path)
    assert subject.strip().replace(" ", "") == f"subject=CN={'A1' * 24}"


@pytest.mark.parametrize("options", [{}, {"ca": "upload"}, {"proof": "upload"}])
def test_devices_of_the_catalog_come_in_by_their_daily_certificate_and_no_others(
    service: DpsService, catalog: EmulatedCatalog, options: dict[str, str]
) -> None:
    if options.get("ca") == "upload":
        by_hand(service, catalog)
    first = prepare(service, **options)
    assert any("in use" in line for line in first)
    assert any("group Gadgets: made" in line for line in first)
    before = service.snapshot()
    assert all("made" not in line for line in prepare(service, **options))
    assert service.snapshot() == before
    cloud = opened(service, **options)
    unit = Registration("aa11", "enabled", (), ())
    assert cloud.expected(unit) is None
    assert [one.kind for one in cloud.tell([unit, Registration("bb22", "blocked", (), ())])] == ["covered", "done"]
    cloud.close()
    stranger = EmulatedCatalog("Others")
    seen = register(
        service, device(service, catalog, "aa11"), device(service, catalog, "bb22"), device(service, stranger, "cc33")
    )
    assert seen["aa11"] == "assigned"
    assert seen["bb22"] != "assigned"
    assert "401" in seen["cc33"]


def test_a_renewed_ca_is_proven_with_its_own_key_before_the_old_one_ends(
    service: DpsService, catalog: EmulatedCatalog
) -> None:
    prepare(service)
    old = device(service, catalog, "aa11")
    catalog.renew()
    new = device(service, catalog, "bb22")
    lines = prepare(service)
    assert sum("possession proven" in line for line in lines) == 1
    assert len(set(lines)) == len(lines) == 5
    assert register(service, old, new) == {"aa11": "assigned", "bb22": "assigned"}


def test_a_file_with_the_chain_is_enough_where_nobody_lets_us_at_the_manager(
    service: DpsService, catalog: EmulatedCatalog, tmp_path: Path
) -> None:
    chain = pkcs7.serialize_certificates([catalog.root, catalog.cas[0].certificate], Encoding.DER)
    (tmp_path / "catalog.p7b").write_bytes(chain)
    by_hand(service, catalog)
    service.dps.management_token = "nobody"
    text = f"azure-sphere:s1/rg/Gadgets?dps={service.host}&key=test:key&trust=dps-root.pem&ca=upload&chain=catalog.p7b"
    cloud = AzureSphereCloud(text, secrets=service.secret, base=tmp_path)
    assert [one.code for one in cloud.estimate(1, []).obstacles] == ["cloud.ca.unverified"]
    with pytest.raises(Misconfigured) as raised:
        cloud.prepare((), never)
    assert raised.value.code == "cloud.ca.unverified"
    assert len(service.dps.groups) == 0
    cloud.close()
    cloud = AzureSphereCloud(f"{text}&verified=elsewhere", secrets=service.secret, base=tmp_path)
    lines = cloud.prepare((), never)
    cloud.close()
    assert any("group Gadgets: made" in line for line in lines)
    assert register(service, device(service, catalog, "aa11")) == {"aa11": "assigned"}
    with pytest.raises(Misconfigured) as raised:
        prepare(service)
    assert raised.value.code == "cloud.credentials"


def test_a_file_goes_before_the_manager_which_still_signs_the_proof(
    service: DpsService, catalog: EmulatedCatalog, tmp_path: Path
) -> None:
    (tmp_path / "catalog.pem").write_bytes(pem(catalog.cas[0].certificate))
    assert any("possession proven" in line for line in prepare(service, chain="catalog.pem"))
    other = EmulatedCatalog("Gadgets")
    service.dps.sphere.add(other)
    service.ask("DELETE", f"{ARM}/certificates/Gadgets-{_digest(catalog)}", if_match="*")
    with pytest.raises(Refused) as raised:
        prepare(service, chain="catalog.pem")
    assert raised.value.code == "cloud.ca.foreign"


def _digest(catalog: EmulatedCatalog) -> str:
    return sha256(catalog.cas[0].certificate.public_bytes(Encoding.DER)).hexdigest()[:16]


@pytest.mark.parametrize("case", ["two leaves", "nothing", "a stranger above"])
def test_a_file_that_is_no_chain_is_not_sent(
    service: DpsService, catalog: EmulatedCatalog, tmp_path: Path, case: str
) -> None:
    own, other = catalog.cas[0].certificate, EmulatedCatalog("Others")
    forged = Seller().root.sign_ca(other.cas[0].key.public_key(), catalog.root.subject)
    files = {
        "two leaves": pem(own, other.cas[0].certificate),
        "nothing": b"hello",
        "a stranger above": pem(own, forged),
    }
    (tmp_path / "catalog.pem").write_bytes(files[case])
    before = service.snapshot()
    with pytest.raises(BirthmarkError) as raised:
        prepare(service, chain="catalog.pem")
    assert raised.value.code in ("cloud.catalog.file", "certificate.file", "cloud.catalog.chain")
    assert service.snapshot() == before


DER = base64.b64encode(EmulatedCatalog("x").cas[0].certificate.public_bytes(Encoding.DER)).decode()
ANSWERS: dict[str, Any] = {
    "no object": [],
    "no list": {"value": {}},
    "no certificate": {"value": [{"name": "1", "properties": {"status": "Active", "certificate": "AAAA"}}]},
    "no base64": {"value": [{"name": "1", "properties": {"status": "Active", "certificate": "?"}}]},
    "a name that leads elsewhere": {
        "value": [{"name": "..", "properties": {"status": "Active", "certificate": DER}}],
    },
    "nothing": {"value": []},
    "none of today": {"value": [{"name": "1", "properties": {"status": "Expired", "certificate": "AAAA"}}]},
    "no properties": {"value": [{"name": "1"}]},
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_none_of_a_catalog_is_in_its_family(
    service: DpsService, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.dps.sphere, "answer", lambda request: Answer(200, ANSWERS[case]))
    before = service.snapshot()
    with pytest.raises((Misconfigured, Refused)) as raised:
        prepare(service)
    assert raised.value.code in ("cloud.answer", "cloud.catalog.empty")
    assert service.snapshot() == before


def test_a_proof_by_another_key_is_never_sent(service: DpsService, catalog: EmulatedCatalog) -> None:
    catalog.cas[0].key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(Refused) as raised:
        prepare(service)
    assert raised.value.code == "cloud.ca.unproven"


def test_a_ca_that_is_none_of_the_catalog_is_refused(service: DpsService, catalog: EmulatedCatalog) -> None:
    cloud = opened(service)
    with pytest.raises(Refused) as raised:
        cloud.prepare([Fleet().authority()], never)
    cloud.close()
    assert raised.value.code == "cloud.ca.foreign"


@pytest.mark.parametrize(
    "text",
    [
        "azure-sphere:s1/rg?dps=x.azure-devices-provisioning.net&key=env:K",
        "azure-sphere:s1/rg/c?key=env:K",
        "azure-sphere:s1/rg/c?dps=x&key=env:K",
        "azure-sphere:s1/rg/c?dps=x&key=env:K&ca=upload&mode=individual",
        "azure-sphere:s1/rg/c?dps=x&key=env:K&ca=upload&dps=y",
        "azure-sphere:s1/rg/c?dps=x&key=env:K&ca=upload&proof=upload",
        "azure-sphere:s1/rg/c?dps=x&key=env:K&ca=upload&arm-host=a/b",
        "azure-sphere:s1/rg/c d?dps=x&key=env:K&ca=upload",
        "azure-sphere:s1/rg/c?dps=x/y&key=env:K&ca=upload",
    ],
)
def test_a_uri_that_cannot_be_meant(text: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as raised:
        AzureSphereCloud(text, secrets=lambda reference: Secret(b"QUJD"), base=tmp_path)
    assert raised.value.code == "cloud.uri"


def test_a_chain_that_the_root_did_not_sign_is_tampered_with(
    service: DpsService, catalog: EmulatedCatalog, tmp_path: Path
) -> None:
    forged = EmulatedCatalog("Gadgets")
    (tmp_path / "catalog.pem").write_bytes(pem(catalog.cas[0].certificate, forged.root))
    with pytest.raises(Tampered) as raised:
        prepare(service, chain="catalog.pem", ca="upload")
    assert raised.value.code == "cloud.catalog.chain"
