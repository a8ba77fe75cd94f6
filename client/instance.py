"""Which copy of a site's gateway this is: the same after a restart, another one in a copied folder or on another machine.

A random number in the state folder, hashed with the file it stands in (device, inode, path) and with the running system's boot
id. A container that is made anew over the same volume stays the same; a copy elsewhere and a rebooted machine do not.
"""

import hashlib
import os
from pathlib import Path

from client.files import write_first
from consortium.canonical import integer, pack, text

SIZE = 16  # bytes
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def instance_of(state_dir: Path, boot_id: Path = BOOT_ID) -> str:
    """32 hex digits that tell this gateway from every copy of it; they say nothing about the machine to whoever reads them."""
    file = state_dir / "instance"
    if not file.exists():
        write_first(file, os.urandom(SIZE).hex().encode("ascii"))
    found = file.stat()
    booted = boot_id.read_bytes().strip() if boot_id.exists() else b""
    place = pack(integer(found.st_dev), integer(found.st_ino), os.fsencode(file.resolve()), booted)
    return hashlib.sha256(pack(text("wardround/gateway-instance/1"), file.read_bytes(), place)).hexdigest()[: 2 * SIZE]
