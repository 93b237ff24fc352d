from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, mldsa, rsa
from pki_makers import FaultyTokenKey, key

from birthmark.errors import Refused
from birthmark.pki.algorithms import ALGORITHMS, algorithm_named, algorithm_of, is_software_key, spki_of

NAMES = sorted(ALGORITHMS)


@pytest.mark.parametrize("name", NAMES)
def test_key_signs_and_is_recognised(name: str) -> None:
    algorithm, private = ALGORITHMS[name], key(name)
    public = private.public_key()
    assert algorithm_of(public) is algorithm
    assert algorithm_named(name) is algorithm
    signature = algorithm.sign(private, b"to be signed")
    assert len(signature) <= algorithm.max_signature
    assert algorithm.verify(public, signature, b"to be signed")
    assert not algorithm.verify(public, signature, b"something else")
    assert not algorithm.verify(key(name, 1).public_key(), signature, b"to be signed")
    assert not algorithm.verify(public, b"", b"to be signed")


@pytest.mark.parametrize("name", NAMES)
def test_spki_has_the_form_the_template_expects(name: str) -> None:
    algorithm, spki = ALGORITHMS[name], spki_of(key(name).public_key())
    algorithm.check_spki(spki)
    assert algorithm.key_id(spki) == x509.SubjectKeyIdentifier.from_public_key(key(name).public_key()).digest


@pytest.mark.parametrize("name", NAMES)
def test_spki_of_another_algorithm_is_refused(name: str) -> None:
    for other in NAMES:
        if other != name:
            with pytest.raises(Refused) as caught:
                ALGORITHMS[name].check_spki(spki_of(key(other).public_key()))
            assert caught.value.code == "key.algorithm.mismatch"


@pytest.mark.parametrize("name", NAMES)
def test_cut_or_padded_spki_is_refused(name: str) -> None:
    spki = spki_of(key(name).public_key())
    for bad in (b"", spki[:-1], spki + b"\0", b"\x31" + spki[1:]):
        with pytest.raises(Refused, match=r"key\.algorithm\.mismatch"):
            ALGORITHMS[name].check_spki(bad)


@pytest.mark.parametrize("name", ["p256", "p384"])
def test_point_off_the_curve_is_refused(name: str) -> None:
    algorithm = ALGORITHMS[name]
    off = algorithm.spki_prefix + b"\x01" * (algorithm.spki_length - len(algorithm.spki_prefix))
    with pytest.raises(Refused, match=r"key\.algorithm\.mismatch"):
        algorithm.check_spki(off)


def test_short_rsa_modulus_and_odd_exponent_are_refused() -> None:
    algorithm, spki = ALGORITHMS["rsa2048"], spki_of(key("rsa2048").public_key())
    at = len(algorithm.spki_prefix)
    for bad in (spki[:at] + b"\x7f" + spki[at + 1 :], spki[:-1] + b"\x03"):
        with pytest.raises(Refused, match=r"key\.algorithm\.mismatch"):
            algorithm.check_spki(bad)


def test_other_keys_are_unsupported() -> None:
    others = (
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed448.Ed448PrivateKey.generate(),
        mldsa.MLDSA87PrivateKey.generate(),
        rsa.generate_private_key(65537, 2056),
        dsa.generate_private_key(2048),
    )
    for other in others:
        with pytest.raises(Refused) as caught:
            algorithm_of(other.public_key())
        assert caught.value.code == "key.algorithm.unsupported"
    for name in ("p521", "", "P256", "\n"):
        with pytest.raises(Refused, match=r"key\.algorithm\.unsupported"):
            algorithm_named(name)


def test_key_that_forwards_to_a_token_works_and_is_not_trusted() -> None:
    real = key("p256")
    token = FaultyTokenKey(real, real)
    algorithm = algorithm_of(token.public_key())
    assert algorithm.verify(real.public_key(), algorithm.sign(token, b"x"), b"x")
    assert not is_software_key(token)
    assert all(is_software_key(key(name)) for name in NAMES)
