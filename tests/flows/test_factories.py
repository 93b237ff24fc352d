"""One authority and three factories, one of each mode, from the first key to the last report: the commands alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from birthmark.model.events import Revoked, decode_entry
from birthmark.shell.workspace.wiring import open_workspace
from support.serving import serving
from support.siteworld import SiteWorld, make_authority, openssl

ORDERS = {"online": ("lot-o", "ON-0001"), "factory_ca": ("lot-f", "FC-0001"), "pool": ("lot-p", "PL-0001")}
NAMES = {"online": "fab-o", "factory_ca": "fab-f", "pool": "fab-p"}


class Story(SiteWorld):
    """The steps that the modes have in common."""

    def site(self, mode: str) -> Path:
        return self.place / NAMES[mode]

    def order(self, mode: str, quantity: int = 4) -> None:
        """Create an order for a site, make it where the authority does, and let it travel."""
        name, first = ORDERS[mode]
        self.good("order", "create", name, "--product", "device", "--quantity", str(quantity), "--first", first,
                  "--site", NAMES[mode], "-C", self.hq)  # fmt: skip
        if mode != "factory_ca":
            assert self.good("order", "make", name, "--processes", "1", "-C", self.hq)["made"] == quantity
        sealed = self.good("bundle", "seal", "--order", name, "--site", NAMES[mode], "-C", self.hq)
        carried = self.place / "sticks" / Path(sealed["file"]).name
        carried.parent.mkdir(exist_ok=True)
        for path in (sealed["file"], sealed["manifest"]):
            shutil.copy(path, carried.parent)
        self.good("bundle", "open", carried, "-C", self.site(mode))
        if mode == "factory_ca":
            made = self.good("order", "make", name, "--processes", "1", "-C", self.site(mode))
            assert made["made"] == quantity

    def devices(self, mode: str, count: int) -> list[str]:
        first = ORDERS[mode][1]
        return [f"{first[:3]}{number:04d}" for number in range(1, count + 1)]

    def provision(self, mode: str, device: str) -> None:
        out = self.place / "out" / device
        out.mkdir(parents=True)
        self.good("station", "provision", "--device-serial", device, "--target", f"files:{out}", "-C", self.site(mode))

    def clean(self, workspace: Path) -> dict[str, Any]:
        report = self.good("audit", "verify", workspace)
        assert report["findings"] == [], report["findings"]
        return report


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority and its three sites, met."""
    place = tmp_path_factory.mktemp("factories")
    make_authority(place)
    return place


@pytest.fixture
def story(made: Path, capsys: pytest.CaptureFixture[str]) -> Story:
    return Story(made, capsys)


def test_three_factories_work_and_come_home(story: Story) -> None:
    made = story.good("access", "server", "--name", "127.0.0.1", "-C", story.hq)
    assert made["settings"] == str(story.hq / "settings.d" / "serve.toml")
    with serving(story.hq, story.place / "serve.log") as service:
        for mode, name in NAMES.items():
            request = story.init(name, mode)
            url = ("--url", service.url) if mode == "online" else ()
            grant = Path(story.good("site", "add", request, "-C", story.hq, *url)["grant"])
            vkey = (story.hq / "log" / "vkey").read_text().strip()
            story.good("site", "accept", grant, "--authority-vkey", vkey, "-C", story.site(mode))
            story.order(mode)
        for mode in NAMES:
            for device in story.devices(mode, 2):
                story.provision(mode, device)
        pushed = story.good("site", "report", "--push", "-C", story.site("online"))
        assert (pushed["outcome"], pushed["settled"], pushed["acknowledged"]) == ("taken", 2, pushed["size"])
        again = story.good("site", "report", "--push", "-C", story.site("online"))
        assert again["first"] == pushed["acknowledged"]
    for mode in ("factory_ca", "pool"):
        stick = story.place / f"{mode}.report"
        story.good("site", "report", "-o", stick, "-C", story.site(mode))
        (told,) = story.good("site", "ingest", stick, "-C", story.hq)["reports"]
        assert (told["outcome"], told["findings"]) == ("taken", [])
    for mode, name in NAMES.items():
        for device in story.devices(mode, 2):
            shown = story.good("device", "show", device, "-C", story.hq)
            assert (shown["state"], shown["site"]) == ("verified", name)
        assert story.good("device", "show", story.devices(mode, 3)[2], "-C", story.hq)["state"] != "verified"
    for mode in ("online", "pool"):
        kept = {"online": 0, "pool": 2}[mode]
        forgot = story.good("bundle", "forget", ORDERS[mode][0], "-C", story.hq)
        assert (forgot["erased"], forgot["kept"]) == (2, kept)
    for workspace in (story.hq, *map(story.site, NAMES)):
        story.good("ledger", "replay", "-C", workspace)
        story.clean(workspace)


def test_what_was_installed_stands_below_one_root(story: Story) -> None:
    root, chain = story.hq / "ca" / "root.pem", story.place / "cas.pem"
    authorities = [story.hq / "ca" / f"{name}.pem" for name in ("issuing", "fab-f-ca-1")]
    chain.write_bytes(b"".join(path.read_bytes() for path in authorities))
    serials = set()
    for mode in NAMES:
        for device in story.devices(mode, 2):
            leaf = story.place / "out" / device / "device.crt"
            openssl("verify", "-x509_strict", "-CAfile", root, "-untrusted", chain, leaf)
            serials.add(x509.load_pem_x509_certificate(leaf.read_bytes()).serial_number)
    assert len(serials) == 6


def test_what_a_site_destroys_and_revokes_is_known_at_the_authority(story: Story) -> None:
    """Leftovers of a pool, a scrapped device of the site's own CA, a reworked one."""
    story.good("bundle", "close", "lot-p", "--reason", "the lot is done", "-C", story.site("pool"))
    scrapped, reworked = story.devices("factory_ca", 2)
    story.good("device", "scrap", scrapped, "--reason", "fell", "-C", story.site("factory_ca"))
    story.good("device", "rework", reworked, "--reason", "antenna", "-C", story.site("factory_ca"))
    with open_workspace(story.hq, publish=False) as hq:
        before = hq.ledger.head().size
    for mode in ("pool", "factory_ca"):
        stick = story.place / f"{mode}-2.report"
        story.good("site", "report", "-o", stick, "-C", story.site(mode))
        for _ in range(2):
            (told,) = story.good("site", "ingest", stick, "-C", story.hq)["reports"]
            assert told["findings"] == []
    states = {device: story.good("device", "show", device, "-C", story.hq) for device in
              (*story.devices("pool", 4), *story.devices("factory_ca", 2))}  # fmt: skip
    assert [states[device]["state"] for device in story.devices("pool", 4)] == ["verified"] * 2 + ["scrapped"] * 2
    assert states[scrapped]["state"] == "scrapped"
    with open_workspace(story.hq, publish=False) as hq:
        new = [decode_entry(entry)[0] for _, entry in hq.ledger.entries(before, hq.ledger.head().size - before)]
        repeated = [event for event in new if isinstance(event, Revoked)]
        assert sorted(event.device for event in repeated) == sorted([*story.devices("pool", 4)[2:], scrapped, reworked])
        assert {event.by for event in repeated} == {"site/fab-p", "site/fab-f"}
    story.good("ca", "crl", "issuing", "-C", story.hq)
    listed = openssl("crl", "-inform", "DER", "-in", story.hq / "ca" / "issuing.crl", "-noout", "-text")
    assert listed.count("Serial Number:") == 2
    story.good("ca", "crl", "fab-f-ca-1", "-C", story.site("factory_ca"))
    assert story.good("bundle", "forget", "lot-p", "-C", story.hq)["kept"] == 0
    for workspace in (story.hq, story.site("pool"), story.site("factory_ca")):
        story.good("ledger", "replay", "-C", workspace)
        story.clean(workspace)
