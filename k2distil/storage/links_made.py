"""How often the root group of an h5 was given a link, which HDF5 counts and h5py does not tell."""

from __future__ import annotations

from pathlib import Path

LINK_INFO = 2  # the first message of a group's header


def links_made(path: Path) -> int | None:
    """The root group's maximum creation index: a moved or remade dataset counts once more.

    HDF5 File Format Specification 3.0: II.B superblock 2, IV.A.1.b object header 2, IV.A.2.c link
    info. A few bytes are read, whatever the size of the file.

    Returns:
        None: not the layout of `create_h5`, or HDF5 had to move the message.
    """
    with path.open("rb") as file:
        superblock = file.read(48)
        if superblock[:9] != b"\x89HDF\r\n\x1a\n\x02":
            return None
        file.seek(int.from_bytes(superblock[36:44], "little"))
        header = file.read(64)
    flags = header[5]
    # Behind the flags: four times, two limits, the size of the messages; then the first of them.
    first = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0) + (1 << (flags & 3))
    message = header[first + (6 if flags & 4 else 4) :]
    is_tracked = header[first] == LINK_INFO and message[1] & 1
    return int.from_bytes(message[2:10], "little") if is_tracked else None
