"""Runs in the environment of ``tests/tools/azure.in``: Microsoft's two service clients and its resource client.

Arguments: which client, then JSON with ``host``, ``root`` (file), ``connection``, ``token`` and what the script needs.
One JSON object is printed: what the client returned and raised.
"""

import base64
import json
import os
import sys
import time

which, told = sys.argv[1], json.loads(sys.argv[2])
seen = {}


def said(work):
    """Return the class of what the client raises, and the code in its body."""
    try:
        work()
    except Exception as problem:  # noqa: BLE001  what the client says is the result
        body = getattr(getattr(problem, "response", None), "text", lambda: "{}")()
        return [
            type(problem).__name__,
            getattr(problem, "status_code", None),
            json.loads(body or "{}").get("errorCode"),
        ]
    return None


def resource():
    """The resource provider: azure-mgmt-iothubprovisioningservices."""
    from azure.core import MatchConditions
    from azure.core.credentials import AccessToken
    from azure.mgmt.iothubprovisioningservices import IotDpsClient

    class Static:
        def get_token(self, *scopes, **more):
            return AccessToken(told["token"], int(time.time()) + 3600)

        def get_token_info(self, *scopes, **more):
            from azure.core.credentials import AccessTokenInfo

            return AccessTokenInfo(told["token"], int(time.time()) + 3600)

    client = IotDpsClient(Static(), "sub", "https://" + told["host"], connection_verify=told["root"], retry_total=0)
    place = {"resource_group_name": "rg", "provisioning_service_name": "dps1"}
    same = MatchConditions.IfNotModified
    ca = base64.b64decode(told["ca"])
    certificates = client.dps_certificate
    made = certificates.create_or_update(
        certificate_name="line", certificate_description={"properties": {"certificate": told["ca"]}}, **place
    )
    seen["made"] = [made.name, made.properties.is_verified, made.properties.thumbprint, made.properties.subject]
    seen["expiry"] = made.properties.expiry.isoformat()
    asked = certificates.generate_verification_code(
        certificate_name="line", etag=made.etag, match_condition=same, **place
    )
    seen["code"] = asked.properties.verification_code
    with open(told["code_file"], "w") as file:
        file.write(seen["code"])
    while not os.path.exists(told["proof_file"]):
        time.sleep(0.02)
    with open(told["proof_file"]) as file:
        proof = file.read()
    stale = dict(certificate_name="line", etag=made.etag, match_condition=same, **place)
    seen["stale"] = said(lambda: certificates.verify_certificate(request={"certificate": proof}, **stale))
    fresh = {**stale, "etag": asked.etag}
    verified = certificates.verify_certificate(request={"certificate": proof}, **fresh)
    seen["verified"] = verified.properties.is_verified
    trusted = certificates.create_or_update(
        certificate_name="trusted",
        certificate_description={"properties": {"certificate": told["ca"], "isVerified": True}},
        **place,
    )
    seen["trusted"] = trusted.properties.is_verified
    seen["listed"] = sorted(one.name for one in certificates.list(**place).value)
    got = certificates.get(certificate_name="line", **place)
    certificates.delete(certificate_name="line", etag=got.etag, match_condition=same, **place)
    seen["left"] = [one.name for one in certificates.list(**place).value]
    seen["missing"] = said(lambda: certificates.get(certificate_name="line", **place))
    assert ca
    service = client.iot_dps_resource
    shown = service.get("dps1", "rg")
    seen["service"] = [shown.name, shown.properties.id_scope, shown.properties.service_operations_host_name]
    seen["hubs"] = [hub.name for hub in shown.properties.iot_hubs]
    seen["keys"] = [[key.key_name, key.primary_key] for key in service.list_keys("dps1", "rg")]
    seen["key"] = service.list_keys_for_key_name("dps1", told["policy"], "rg").primary_key
    seen["services"] = [one.id for one in service.list_by_subscription()]
    seen["services"] += [one.id for one in service.list_by_resource_group("rg")]
    free = service.check_provisioning_service_name_availability({"name": "dps2"})
    seen["free"] = free.name_available


def modern():
    """The service API of 2021-10-01: azure-iot-deviceprovisioning 1.0.0b1."""
    from azure.iot.deviceprovisioning import DeviceProvisioningClient

    client = DeviceProvisioningClient.from_connection_string(
        told["connection"], connection_verify=told["root"], retry_total=0
    )
    single, group, states = client.enrollment, client.enrollment_group, client.device_registration_state

    def one(name, **more):
        slot = {"clientCertificates": {"primary": {"certificate": told["leaf"]}}}
        return {"registrationId": name, "attestation": {"type": "x509", "x509": slot}, **more}

    made = single.create_or_update("d0", one("d0", deviceId="unit-0"))
    seen["made"] = [made["deviceId"], made["provisioningStatus"], made["allocationPolicy"], made["reprovisionPolicy"]]
    seen["info"] = made["attestation"]["x509"]["clientCertificates"]["primary"]["info"]
    seen["again"] = said(lambda: single.create_or_update("d0", one("d0")))
    made["provisioningStatus"] = "disabled"
    changed = single.create_or_update("d0", made, if_match=made["etag"])
    seen["changed"] = changed["provisioningStatus"]
    seen["stale"] = said(lambda: single.create_or_update("d0", made, if_match=made["etag"]))
    bulk = {"mode": "create", "enrollments": [one(f"d{number}") for number in range(10)]}
    done = single.run_bulk_operation(bulk)
    seen["bulk"] = [done["isSuccessful"], [[bad["registrationId"], bad["errorCode"]] for bad in done["errors"]]]
    seen["many"] = said(lambda: single.run_bulk_operation({**bulk, "enrollments": bulk["enrollments"] * 2}))
    pages = single.query({"query": "SELECT * FROM enrollments"}, top=4).by_page()
    seen["pages"] = [[row["registrationId"] for row in page] for page in pages]
    key = {"type": "tpm", "tpm": {"endorsementKey": told["endorsement"]}}
    single.create_or_update("chip", {"registrationId": "chip", "attestation": key})
    seen["hidden"] = single.get("chip")["attestation"]
    seen["shown"] = single.get_attestation_mechanism("chip")
    single.delete("d0", if_match=changed["etag"])
    seen["deleted"] = said(lambda: single.get("d0"))
    slot = {"signingCertificates": {"primary": {"certificate": told["ca"]}}}
    body = {"enrollmentGroupId": "line", "attestation": {"type": "x509", "x509": slot}}
    seen["group"] = group.create_or_update("line", body)["enrollmentGroupId"]
    seen["groups"] = [row["enrollmentGroupId"] for row in group.query({"query": "SELECT * FROM enrollmentGroups"})]
    seen["groupMechanism"] = sorted(group.get_attestation_mechanism("line")["x509"])
    gone = group.run_bulk_operation({"mode": "delete", "enrollmentGroups": [body]})
    seen["groupBulk"] = gone["isSuccessful"]
    group.create_or_update("line", body)
    with open(told["ready_file"], "w") as file:
        file.write("ready")
    while not os.path.exists(told["registered_file"]):
        time.sleep(0.02)
    state = states.get("made-by-line")
    seen["state"] = [state["status"], state["assignedHub"], state["substatus"]]
    seen["states"] = [row["registrationId"] for row in states.query("line")]
    states.delete("made-by-line", if_match=state["etag"])
    seen["forgotten"] = said(lambda: states.get("made-by-line"))
    foreign = DeviceProvisioningClient.from_connection_string(
        told["connection"].replace("SharedAccessKey=", "SharedAccessKey=AAAA"), connection_verify=told["root"]
    )
    seen["foreign"] = said(lambda: foreign.enrollment.get("d1"))


def elder():
    """The service API of 2018-09-01-preview: azure-iothub-provisioningserviceclient 1.2.0."""
    os.environ["REQUESTS_CA_BUNDLE"] = told["root"]
    from provisioningserviceclient import (
        BulkEnrollmentOperation,
        IndividualEnrollment,
        ProvisioningServiceClient,
        QuerySpecification,
    )
    from provisioningserviceclient.models import AttestationMechanism, ReprovisionPolicy

    client = ProvisioningServiceClient.create_from_connection_string(told["connection"])
    client._runtime_client.config.connection.verify = told["root"]
    mechanism = AttestationMechanism.create_with_x509_client_certs(told["leaf"])
    policy = ReprovisionPolicy(update_hub_assignment=True, migrate_device_data=False)
    made = client.create_or_update(
        IndividualEnrollment.create("e0", mechanism, reprovision_policy=policy, iot_hub_host_name=told["hub"])
    )
    seen["made"] = [made.registration_id, made.provisioning_status, made.reprovision_policy.migrate_device_data]
    made.provisioning_status = "disabled"
    seen["changed"] = client.create_or_update(made).provisioning_status
    more = [IndividualEnrollment.create(f"e{number}", mechanism) for number in range(1, 4)]
    done = client.run_bulk_operation(BulkEnrollmentOperation(mode="create", enrollments=more))
    seen["bulk"] = done.is_successful
    query = client.create_individual_enrollment_query(QuerySpecification(query="SELECT * FROM enrollments"), 3)
    seen["pages"] = [[row.registration_id for row in page] for page in query]
    client.delete_individual_enrollment_by_param("e0")
    seen["deleted"] = said(lambda: client.get_individual_enrollment("e0"))


{"resource": resource, "modern": modern, "elder": elder}[which]()
print(json.dumps(seen))
