"""URIs of keys in tokens: what they name, what is refused, and that a refusal repeats none of their values."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birthmark.adapters.pkcs11_uri import Pkcs11Uri, parse_pkcs11_uri
from birthmark.errors import Misconfigured

BASE = Path("/workspace")
QUERY = "module-path=/m.so&pin-source=env:PIN"
TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1)


def test_the_example_of_the_documentation_is_understood() -> None:
    uri = "pkcs11:token=ca;object=issuing;id=%01?module-path=/usr/lib/hsm.so&pin-source=prompt:PIN%20of%20the%20CA"
    module = Path("/usr/lib/hsm.so")
    assert parse_pkcs11_uri(uri, base=BASE) == Pkcs11Uri(module, "ca", "issuing", b"\x01", "prompt:PIN of the CA")


def test_relative_module_starts_at_the_base() -> None:
    uri = "pkcs11:id=%00%FFx;token=ca;type=private?pin-source=env:PIN&module-path=lib/m.so"
    assert parse_pkcs11_uri(uri, base=BASE) == Pkcs11Uri(BASE / "lib/m.so", "ca", None, b"\x00\xffx", "env:PIN")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "pkcs11:",
        "pkcs11:?",
        f"pkcs11:?{QUERY}",
        f"PKCS11:token=canary;object=k?{QUERY}",
        f"file:token=canary;object=k?{QUERY}",
        f"pkcs11:object=canary?{QUERY}",
        f"pkcs11:token=canary?{QUERY}",
        "pkcs11:token=canary;object=k",
        "pkcs11:token=canary;object=k?module-path=/m.so",
        "pkcs11:token=canary;object=k?pin-source=env:PIN",
        f"pkcs11:token=;object=canary?{QUERY}",
        f"pkcs11:token=canary;object=?{QUERY}",
        f"pkcs11:token=canary;object=k;?{QUERY}",
        f"pkcs11:token=canary;object=k;object=k?{QUERY}",
        f"pkcs11:token=canary;object=k?{QUERY}&{QUERY}",
        f"pkcs11:token=canary;object=k;serial=1?{QUERY}",
        f"pkcs11:token=canary;object=k;Object=j?{QUERY}",
        f"pkcs11:token=canary;object=k;type=public?{QUERY}",
        f"pkcs11:token=canary;object=k?{QUERY}&module-name=m",
        f"pkcs11:token=canary;object=k?{QUERY}&chain=full",
        f"pkcs11:token=canary&object=k?{QUERY}",
        f"pkcs11:token=canary;object=k%?{QUERY}",
        f"pkcs11:token=canary;object=k%4?{QUERY}",
        f"pkcs11:token=canary;object=k%zz?{QUERY}",
        f"pkcs11:token=canary;object=%FF?{QUERY}",
        f"pkcs11:token=canary;object=k%00?{QUERY}",
        f"pkcs11:token=canary;object=k%0A?{QUERY}",
        f"pkcs11:token=canary;object=k\n?{QUERY}",
        f"pkcs11:token=canary;object=k\udcff?{QUERY}",
        f"pkcs11:token=canary{'x' * 27};object=k?{QUERY}",
        "pkcs11:token=canary;object=k?module-path=/m%00.so&pin-source=env:PIN",
        "pkcs11:token=canary;object=k?module-path=/m.so&pin-source=env:PIN%0a",
    ],
)
def test_what_is_not_understood_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_pkcs11_uri(uri, base=BASE)
    assert caught.value.code == "key.uri"
    assert "canary" not in str(caught.value.document())


@pytest.mark.parametrize(
    "uri", ["pkcs11:token=ca;object=k?module-path=/m.so&pin-value=canary", "pkcs11:token=ca;pin-value=canary?"]
)
def test_pin_in_the_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_pkcs11_uri(uri, base=BASE)
    assert caught.value.code == "secret.reference"
    assert "canary" not in str(caught.value.document())


@given(token=TEXT.filter(lambda text: len(text.encode()) <= 32), label=TEXT, key_id=st.binary(min_size=1), pin=TEXT)
def test_what_is_encoded_comes_back(token: str, label: str, key_id: bytes, pin: str) -> None:
    octets = "".join(f"%{octet:02X}" for octet in key_id)
    path = f"token={quote(token, safe='')};object={quote(label, safe='')};id={octets}"
    uri = f"pkcs11:{path}?pin-source={quote(pin, safe='')}&module-path=/m.so"
    assert parse_pkcs11_uri(uri, base=BASE) == Pkcs11Uri(Path("/m.so"), token, label, key_id, pin)


@given(st.text() | st.text("pkcs11:token=object;id?module-path&-source%0f").map("pkcs11:token=a;{}".format))
def test_any_text_is_understood_or_refused(text: str) -> None:
    with suppress(Misconfigured):
        assert parse_pkcs11_uri(text, base=BASE).token
