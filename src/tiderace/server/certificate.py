"""Makes a self-signed certificate for the development server."""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError:
    x509 = None  # type: ignore[assignment]

_VALID = datetime.timedelta(days=365)
# A certificate that expires within this time is replaced.
_LEFT = datetime.timedelta(days=7)


def development_certificate(host: str, folder: Path) -> Path:
    """Return a file with a key and a certificate for ``host`` and this machine's names.

    The file is kept in ``folder``, so a browser needs to trust it only once.

    Raises:
        ImportError: the package ``cryptography`` is not installed.
        OSError: the file cannot be written.
    """
    if x509 is None:
        raise ImportError(
            "the certificate for development is made by the package cryptography, which "
            "is not installed; install it with: pip install cryptography"
        )
    path = folder / f"{host.replace(':', '_')}.pem"
    now = datetime.datetime.now(datetime.UTC)
    if path.exists():
        kept = x509.load_pem_x509_certificate(path.read_bytes())
        if kept.not_valid_after_utc > now + _LEFT:
            return path
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_make({host, "localhost", "127.0.0.1", "::1"}, now))
    return path


def _make(hosts: set[str], now: datetime.datetime) -> bytes:
    """Return a new key and its certificate as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Tiderace")])
    names: list[x509.GeneralName] = []
    for host in sorted(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(pem)
