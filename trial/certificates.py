"""Certificates and keys of a deployment: ``python -m trial.certificates``.

The SuperLink's certificate says that it is who it claims to be; a SuperNode's key is its identity:
a node that starts again with the same key is the same node, and a stranger is no node at all.
"""

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS = 365


def make(folder: Path, hosts: list[str], num_nodes: int) -> None:
    """Write what a SuperLink and its SuperNodes need; what is there already is left alone.

    Parameters
    ----------
    folder : Path
        Gets ``ca.crt`` (to every machine), ``server.pem`` and ``server.key`` (to the SuperLink's
        host), and ``node-<i>`` with ``node-<i>.pub`` (the private key to device i, the public one
        to who registers it).
    hosts : list of str
        Names and addresses under which nodes reach the SuperLink.
    num_nodes : int
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "server.pem").exists():
        _make_certificates(folder, hosts)
    for number in range(num_nodes):
        path = folder / f"node-{number}"
        if not path.exists():
            make_node_key(path)


def make_node_key(path: Path) -> None:
    """Write a SuperNode's private key to `path`, and the public one beside it."""
    key = ec.generate_private_key(ec.SECP384R1())
    _write_secret(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    path.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    )


def _make_certificates(folder: Path, hosts: list[str]) -> None:
    """Make an authority of our own, whose key is dropped, and the SuperLink's certificate."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    authority = _name("flwr_byz trial CA")
    authority_certificate = (
        _builder(authority, authority, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        _builder(_name(hosts[0]), authority, server_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(authority_certificate.public_bytes(pem))
    _write_secret(
        folder / "server.key",
        server_key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    (folder / "server.pem").write_bytes(certificate.public_bytes(pem))


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # devices' clocks differ
        .not_valid_after(now + timedelta(days=_DAYS))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_secret(path: Path, content: bytes) -> None:
    """Write a file that nobody else can read, from the first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def main(
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    host: Annotated[
        list[str], typer.Option(help="Name or address of the SuperLink (can be given again).")
    ],
    nodes: Annotated[int, typer.Option(min=1, help="Number of SuperNodes.")],
) -> None:
    """Make the certificates of a SuperLink and the keys of its SuperNodes."""
    make(folder, host, nodes)
    typer.echo(f"written to {folder.resolve()}")


if __name__ == "__main__":
    typer.run(main)
