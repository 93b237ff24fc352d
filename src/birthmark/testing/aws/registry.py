"""moto's registry of AWS IoT with what it has not: identities by DER, look-ups that stay flat, a code that stays.

``Registry`` takes the place of moto's backend, so that moto's own operations (things, policies, groups) and ours work
on the same records.
"""

from __future__ import annotations

import os
from collections import defaultdict
from datetime import datetime
from typing import Any

from cryptography import x509
from moto.iot import urls
from moto.iot.exceptions import (
    CertificateStateException,
    DeleteConflictException,
    ResourceNotFoundException,
    ThingStillAttached,
)
from moto.iot.models import FakeCaCertificate, FakeCertificate, FakeThing, IoTBackend, iot_backends

from birthmark.testing.aws.authority import AmazonCa
from birthmark.testing.aws.records import ProvisioningTemplate, Task

__all__ = ["Authority", "Certificate", "Registry", "registry_of"]


def _validity(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


class Certificate(FakeCertificate):
    """A device's certificate. ``mode``: ``DEFAULT`` or ``SNI_ONLY``; ``claim``: the template that it may provision
    with, and nothing else, until ``ends``.

    ``reason``: why it could not be provisioned when its device first connected.
    """

    claim: str = ""
    ends: datetime | None = None
    reason: str = ""

    def __init__(self, pem: str, status: str, registry: IoTBackend, ca_id: str | None, mode: str) -> None:
        super().__init__(pem, status, registry.account_id, registry.region_name, ca_id)
        self.x509, self.mode = x509.load_pem_x509_certificate(pem.encode()), mode
        self.validity_not_before, self.validity_not_after = _validity(self.x509)

    def compute_cert_id(self, certificate_pem: str) -> str:
        """Return the SHA-256 of the DER, as the service does."""
        return self.compute_der_cert_id(certificate_pem)

    def to_dict(self) -> dict[str, Any]:
        """Return ``Certificate`` of the API."""
        shown = super().to_dict()
        del shown["caCertificateId"]  # moto shows it, the model of the service does not know it here
        return {**shown, "certificateMode": self.mode}

    def to_description_dict(self) -> dict[str, Any]:
        """Return ``CertificateDescription`` of the API."""
        more = {"caCertificateId": self.ca_certificate_id, "certificateMode": self.mode, "customerVersion": 1}
        return {**super().to_description_dict(), **_present(more)}


class Authority(FakeCaCertificate):
    """A registered CA. ``auto``: whether its devices' certificates are registered when they first connect."""

    def __init__(
        self, pem: str, registry: IoTBackend, *, active: bool, auto: bool, mode: str, config: dict[str, str]
    ) -> None:
        status = "ACTIVE" if active else "INACTIVE"
        super().__init__(pem, status, registry.account_id, registry.region_name, config)
        self.arn = self.arn.replace(":cert/", ":cacert/")
        self.x509, self.mode, self.auto = x509.load_pem_x509_certificate(pem.encode()), mode, auto
        self.validity_not_before, self.validity_not_after = _validity(self.x509)

    def compute_cert_id(self, certificate_pem: str) -> str:
        """Return the SHA-256 of the DER, as the service does."""
        return self.compute_der_cert_id(certificate_pem)

    def to_description_dict(self) -> dict[str, Any]:
        """Return ``CACertificateDescription`` of the API."""
        shown = super().to_description_dict()
        del shown["transferData"]
        switch = "ENABLE" if self.auto else "DISABLE"
        return {**shown, "certificateMode": self.mode, "autoRegistrationStatus": switch, "customerVersion": 1}


def _present(members: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in members.items() if value is not None}


class Registry(IoTBackend):
    """Everything that one account holds in one region."""

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.code = os.urandom(32).hex()
        self.amazon = AmazonCa()
        self.templates: dict[str, ProvisioningTemplate] = {}
        self.tasks: dict[str, Task] = {}
        self._principals: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._things: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._policies: defaultdict[str, dict[str, None]] = defaultdict(dict)

    @property
    def _url_module(self) -> Any:
        return urls  # moto looks for it beside the module of the class

    def arn_of(self, kind: str, name: str) -> str:
        """Return the ARN of something in this account and region."""
        return f"arn:aws:iot:{self.region_name}:{self.account_id}:{kind}/{name}"

    def thing(self, name: str) -> FakeThing | None:
        """Return a thing or None."""
        return self.things.get(self.arn_of("thing", name))

    def describe_thing(self, thing_name: str) -> FakeThing:
        """Return a thing, found by its ARN."""
        found = self.thing(thing_name)
        if found is None:
            raise ResourceNotFoundException(f"Thing {thing_name} cannot be found.")
        return found

    def describe_certificate(self, certificate_id: str) -> FakeCertificate:
        """Return a certificate, found by its id."""
        found = self.certificates.get(certificate_id)
        if found is None:
            raise ResourceNotFoundException(f"The certificate {certificate_id} does not exist.")
        return found

    def _get_principal(self, principal_arn: str) -> Any:
        if ":cert/" in principal_arn:
            return self.describe_certificate(principal_arn.rpartition("/")[2])
        return super()._get_principal(principal_arn)

    def attach_thing_principal(self, thing_name: str, principal_arn: str) -> None:
        """Attach a certificate to a thing."""
        super().attach_thing_principal(thing_name, principal_arn)
        self._principals[thing_name][principal_arn] = None
        self._things[principal_arn][thing_name] = None

    def detach_thing_principal(self, thing_name: str, principal_arn: str) -> None:
        """Take a certificate from a thing."""
        super().detach_thing_principal(thing_name, principal_arn)
        self._principals[thing_name].pop(principal_arn, None)
        self._things[principal_arn].pop(thing_name, None)

    def list_thing_principals(self, thing_name: str) -> list[str]:
        """Return the ARNs of what is attached to a thing."""
        self.describe_thing(thing_name)
        return list(self._principals.get(thing_name, ()))

    def list_principal_things(self, principal_arn: str) -> list[str]:
        """Return the names of the things that a certificate is attached to."""
        return list(self._things.get(principal_arn, ()))

    def attach_policy(self, policy_name: str, target: str) -> None:
        """Attach a policy to a certificate or group."""
        super().attach_policy(policy_name, target)
        self._policies[target][policy_name] = None

    def detach_policy(self, policy_name: str, target: str) -> None:
        """Take a policy from a certificate or group."""
        super().detach_policy(policy_name, target)
        self._policies[target].pop(policy_name, None)

    def list_attached_policies(self, target: str) -> list[Any]:
        """Return the policies of a certificate or group."""
        return [self.policies[name] for name in self._policies.get(target, ()) if name in self.policies]

    def get_policy(self, policy_name: str) -> Any:
        """Return a policy."""
        if policy_name not in self.policies:
            raise ResourceNotFoundException(f"Policy {policy_name} cannot be found.")
        return self.policies[policy_name]

    def delete_thing(self, thing_name: str) -> None:
        """Delete a thing to which nothing is attached."""
        found = self.describe_thing(thing_name)
        if self._principals.get(thing_name):
            raise ThingStillAttached(thing_name)
        for group in self.thing_groups.values():
            group.things.pop(found.arn, None)
        for billing in self.billing_groups.values():
            if found.arn in billing.things:
                billing.things.remove(found.arn)
        del self.things[found.arn]

    def _validation_delete(self, cert: FakeCertificate, force_delete: bool = False) -> None:
        if cert.status == "ACTIVE":
            raise CertificateStateException("A certificate has to be inactive before it is deleted.", cert.arn)
        if self._things.get(cert.arn):
            raise DeleteConflictException(f"Things must be detached before deletion (arn: {cert.arn})")
        if self._policies.get(cert.arn) and not force_delete:
            raise DeleteConflictException(f"Certificate policies must be detached before deletion (arn: {cert.arn})")
        for name in self._policies.pop(cert.arn, {}):
            self.principal_policies.pop((cert.arn, name), None)


def registry_of(account: str, region: str) -> Registry:
    """Return the registry of an account in a region; it takes the place of moto's."""
    backends = iot_backends[account]
    found = dict.get(backends, region)
    if not isinstance(found, Registry):
        found = Registry(region, account)
        dict.__setitem__(backends, region, found)
    return found
