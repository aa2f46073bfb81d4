"""Certificates made on the spot."""

from pathlib import Path

import trustme


def pems(folder: Path, authority: trustme.CA | None = None) -> tuple[Path, Path, Path]:
    """The files of a certificate, its key and the authority that signed it."""
    authority = authority or trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key, ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)
    ca.write_bytes(authority.cert_pem.bytes())
    return cert, key, ca
