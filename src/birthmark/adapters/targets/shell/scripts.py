"""What is asked of a shell on the device: scripts for a POSIX sh with base64, sha256sum, stat, sync, and openssl.

Every script may run twice. Each writes a file beside its final name, mode 0600 from its first moment, compares its
SHA-256, syncs it, renames it and syncs the directory: a power cut leaves the old file or the new one.
"""

from __future__ import annotations

import base64
from hashlib import sha256
from shlex import quote

__all__ = [
    "CERTIFICATE_FILE",
    "KEY_FILE",
    "NO_DIRECTORY",
    "NO_TOOL",
    "WAITING_FILE",
    "birth",
    "keep_waiting",
    "look",
    "public_key",
    "put",
    "remove",
    "request",
    "sign",
]

KEY_FILE, WAITING_FILE, CERTIFICATE_FILE = "device.key", "device.key.new", "device.crt"
NO_DIRECTORY, NO_TOOL, DIFFERS = 41, 42, 43
_PART = ".birthmark.part"
_SYNC = "sync . 2>/dev/null || sync"
_GENERATE = {
    "p256": "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
    "p384": "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
    "rsa2048": "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
    "rsa3072": "-algorithm RSA -pkeyopt rsa_keygen_bits:3072",
    "ed25519": "-algorithm ED25519",
}
ALGORITHMS = frozenset(_GENERATE)
_DIGESTS = {"p256": "-sha256", "p384": "-sha384", "rsa2048": "-sha256", "rsa3072": "-sha256", "ed25519": ""}


def look(directory: str, identity: str | None) -> str:
    """Print what is there, one ``name=value`` a line.

    They are id and certificate in base64, and of both keys: SHA-256 of the file, mode, SHA-256 of what is in the PEM.
    ``identity``: a command that prints what the device is, instead of the file device-id.
    """
    command = "head -c 200 device-id" if identity is None else f" ({identity}) | head -c 200"
    return f"""{_enter(directory)}
for t in base64 sha256sum stat cut tr sed; do command -v $t >/dev/null || exit {NO_TOOL}; done
[ -e device-id ] || [ -n {quote(identity or "")} ] && echo "id=$({command} | base64 | tr -d '\\n')"
for f in {CERTIFICATE_FILE} {KEY_FILE} {WAITING_FILE}; do
[ -f $f ] && [ ! -h $f ] || continue
[ "$(stat -c %s $f)" -le 32768 ] || {{ echo "$f=large"; continue; }}
case $f in
*.crt) echo "$f=$(base64 < $f | tr -d '\\n')";;
*) d=$(sed '/^-----/d' $f | base64 -d | sha256sum | cut -c1-64)
echo "$f=$(sha256sum < $f | cut -c1-64) $(stat -c %a $f) $d";;
esac
done
exit 0"""


def put(directory: str, name: str, data: bytes, mode: str) -> str:
    """Put a whole file in place; it is durable, and has this content, when the script ends well."""
    text = base64.b64encode(data).decode()
    pieces = "\n".join(f"printf %s {text[at : at + 1024]}" for at in range(0, len(text), 1024))
    digest = sha256(data).hexdigest()
    return f"""{_enter(directory)}
[ ! -d {name} ] || exit 1
rm -f {_PART} && umask 077 && {{
{pieces}
}} | base64 -d > {_PART} || exit 1
[ "$(sha256sum < {_PART} | cut -c1-64)" = {digest} ] || {{ rm -f {_PART}; exit {DIFFERS}; }}
chmod {mode} {_PART} && {{ sync {_PART} 2>/dev/null || sync; }} && mv -f {_PART} {name} || exit 1
{{ {_SYNC}; }} && [ "$(sha256sum < {name} | cut -c1-64)" = {digest} ] || exit {DIFFERS}"""


def remove(directory: str, name: str) -> str:
    """Remove a file; it is gone for good when the script ends well."""
    return f"{_enter(directory)}\nrm -f {name} || exit 1\n{_SYNC}"


def keep_waiting(directory: str) -> str:
    """Give the waiting key its final name."""
    return f"""{_enter(directory)}
[ -f {WAITING_FILE} ] || [ -f {KEY_FILE} ] || exit 1
[ ! -f {WAITING_FILE} ] || mv -f {WAITING_FILE} {KEY_FILE} || exit 1
{_SYNC}"""


def birth(directory: str, algorithm: str) -> str:
    """Make a key that waits for its certificate, unless one waits already."""
    return f"""{_enter(directory)}
command -v openssl >/dev/null || exit {NO_TOOL}
[ -f {WAITING_FILE} ] && exit 0
umask 077; rm -f {_PART}
openssl genpkey {_GENERATE[algorithm]} -out {_PART} || exit 1
chmod 600 {_PART} && {{ sync {_PART} 2>/dev/null || sync; }} && mv -f {_PART} {WAITING_FILE} || exit 1
{_SYNC}"""


def request(directory: str, name: str, algorithm: str, device_serial: str) -> str:
    """Print a CSR (DER) by the key in ``name``."""
    form = "[req]\\ndistinguished_name=n\\nprompt=no\\n[n]\\nCN=%s\\n"
    return f"""{_enter(directory)}
c=$(mktemp) || exit 1; trap 'rm -f "$c"' EXIT
printf '{form}' {quote(device_serial)} > "$c"
openssl req -new -config "$c" -key {name} {_DIGESTS[algorithm]} -outform DER"""


def public_key(directory: str, name: str) -> str:
    """Print the public key (SPKI, DER) of the key in ``name``."""
    return f"{_enter(directory)}\nopenssl pkey -in {name} -pubout -outform DER"


def sign(directory: str, algorithm: str, message: bytes) -> str:
    """Print the signature of the installed key over ``message``."""
    digest = _DIGESTS[algorithm].replace("-", "-digest ")
    return f"""{_enter(directory)}
m=$(mktemp) || exit 1; trap 'rm -f "$m"' EXIT
printf %s {base64.b64encode(message).decode()} | base64 -d > "$m"
openssl pkeyutl -sign -rawin {digest} -inkey {KEY_FILE} -in "$m\""""


def _enter(directory: str) -> str:
    return f"cd {quote(directory)} || exit {NO_DIRECTORY}"
