"""One URI names the target of a whole order; it must not lead anywhere else for a device with a clever serial."""

from __future__ import annotations

import pytest

from birthmark.adapters.targets.uri import expand_target_uri
from birthmark.errors import Misconfigured, Refused


@pytest.mark.parametrize(
    ("uri", "expanded"),
    [
        ("files:dut", "files:dut"),
        ("files:/mnt/{device_serial}/id?layout=der", "files:/mnt/SN-1/id?layout=der"),
        (
            "files:{device_serial}?layout=p12&p12-secret=file:pins/{device_serial}",
            "files:SN-1?layout=p12&p12-secret=file:pins/SN-1",
        ),
        ("pkcs11:token={device_serial};object=id", "pkcs11:token=SN-1;object=id"),
        ("files:a..b/..c", "files:a..b/..c"),
    ],
)
def test_placeholder_becomes_the_device_serial(uri: str, expanded: str) -> None:
    assert expand_target_uri(uri, "SN-1") == expanded


@pytest.mark.parametrize("serial", ["../x", "..", ".", "a/b", "a%2fb", "a b", "", "x" * 65, "a\n", "{device_serial}"])
def test_serial_that_is_none_never_gets_into_a_path(serial: str) -> None:
    with pytest.raises(Refused) as caught:
        expand_target_uri("files:{device_serial}", serial)
    assert caught.value.code == "device.serial.malformed"


@pytest.mark.parametrize(
    "uri",
    [
        "files:../x",
        "files:/a/../b",
        "files:..",
        "files:a/%2e%2e/b",
        "files:a%2F..%2Fb",
        "files:a%3F/../b",
        "files:a/..?mode=0600",
    ],
)
def test_path_that_climbs_is_refused(uri: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        expand_target_uri(uri, "SN-1")
    assert caught.value.code == "target.uri.traversal"


@pytest.mark.parametrize(
    "uri",
    [
        "files:{serial}",
        "files:{}",
        "files:{device_serial",
        "files:x}",
        "files:%7Bdevice_serial%7D",
        "files:{{device_serial}}",
    ],
)
def test_unknown_placeholder_is_refused(uri: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        expand_target_uri(uri, "SN-1")
    assert caught.value.code == "target.uri.placeholder"
