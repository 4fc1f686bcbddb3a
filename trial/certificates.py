"""Certificates and keys of a deployment: ``python -m trial.certificates``.

The SuperLink's certificate proves which host it is. A SuperNode's key is its identity: a node that
starts again with the same key is the same node, and the SuperLink refuses a key it does not know.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import trustme
import typer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


def make(folder: Path, hosts: list[str], num_nodes: int) -> None:
    """Write the files that a SuperLink and its SuperNodes need; existing ones stay as they are.

    Parameters
    ----------
    folder : Path
        Gets ``ca.crt`` (for every machine), ``server.pem`` and ``server.key`` (for the SuperLink's
        host), and ``node-<i>`` with ``node-<i>.pub`` (the private key for device i, the public one
        for registering it).
    hosts : list of str
        Names and addresses under which nodes reach the SuperLink.
    num_nodes : int
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "server.pem").exists():
        authority = trustme.CA(path_length=0, organization_name="flwr_byz trial")
        in_a_year = datetime.now(UTC) + timedelta(days=365)
        server = authority.issue_cert(*hosts, not_after=in_a_year)
        authority.cert_pem.write_to_path(folder / "ca.crt")
        _write_secret(folder / "server.key", server.private_key_pem.bytes())
        server.cert_chain_pems[0].write_to_path(folder / "server.pem")
    for path in (folder / f"node-{number}" for number in range(num_nodes)):
        if not path.exists():
            make_node_key(path)


def make_node_key(path: Path) -> None:
    """Write a SuperNode's private key to `path`, and the public one beside it."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    _write_secret(path, private)
    path.with_suffix(".pub").write_bytes(public)


def _write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, from the first byte on."""
    path.unlink(missing_ok=True)
    path.touch(0o600, exist_ok=False)
    path.write_bytes(content)


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
