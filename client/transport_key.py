"""The gateway's key pair: all that the container with the network can prove about itself, and no patient's concern."""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.files import write_atomic


def make_transport_key(path: Path) -> str:
    """A SuperNode's key (ECDSA P-384, the kind Flower authenticates with) at `path`, its public line beside it and returned."""
    private = ec.generate_private_key(ec.SECP384R1())
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    line = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_atomic(path, pem)
    write_atomic(path.with_suffix(".pub"), line + b"\n", mode=0o644)
    return line.decode("ascii")
