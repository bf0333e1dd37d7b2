"""An authority of our own and a certificate of it for loopback."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.embedded.ports import LOOPBACK


@dataclass(frozen=True)
class Certificates:
    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        folder.mkdir(parents=True)
        made = cls(folder / "ca.pem", folder / "server.pem", folder / "server.key")
        root, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the tests' authority")])
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        authority = _builder(name, name, root.public_key()).add_extension(x509.BasicConstraints(True, None), True)
        authority = authority.add_extension(usage, True)
        authority = authority.add_extension(x509.SubjectKeyIdentifier.from_public_key(root.public_key()), False)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))])
        leaf = _builder(own, name, server.public_key()).add_extension(names, False)
        leaf = leaf.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False)
        made.authority.write_bytes(authority.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        made.certificate.write_bytes(leaf.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            server.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return made


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
    )
