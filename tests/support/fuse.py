"""Serves a ``volatile.Disk`` as a file system of the kernel's, in a process of its own: ``python -m
tests.support.fuse MOUNTPOINT``, told by lines on stdin and answering with one line each:

``arm N``: the power goes N changes or syncs from now. ``cut``: it goes now. From then on everything
fails, until ``boot SEED`` mounts what the disk has kept. ``state``: says whether the power is on.

It speaks the kernel's FUSE protocol (``linux/fuse.h``, 7.31) itself and mounts with mount(2), for
which the caller needs a mount namespace of its own (``tests.support.mounts``). Permissions are not
kept to, a mode is safe at once, and a file cannot move to another folder.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from tests.support.volatile import Disk, File, Folder, Node, fault

_HEADER: Final = struct.Struct("<IIQQIIII")
_ANSWER: Final = struct.Struct("<IiQ")
_INIT: Final = struct.Struct("<IIIIHHIIHHI28x")
_ATTR: Final = struct.Struct("<6Q10I")
_VALID: Final = struct.Struct("<QII")
_ENTRY: Final = struct.Struct("<QQQQII")
_OPENED: Final = struct.Struct("<QIi")
_READ: Final = struct.Struct("<QQII")
_SETATTR: Final = struct.Struct("<IIQQQQQQIIII")
_STATFS: Final = struct.Struct("<5Q4I24x")
_DIRENT: Final = struct.Struct("<QQII")

MAX_WRITE_BYTES: Final = 128 << 10
BUFFER_BYTES: Final = MAX_WRITE_BYTES + 4096
CACHE_S: Final = 3600  # whatever changes, changes through the kernel
SET_MODE, SET_SIZE = 1, 8
MNT_DETACH: Final = 2
ROOM: Final = (1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19)  # blocks and files, half of them free
FORGET, INTERRUPT, BATCH_FORGET = 2, 36, 42
"""What nobody answers."""


class Mount:
    """One mount of a disk, from power on to power off."""

    def __init__(self, disk: Disk, lock: threading.Lock) -> None:
        self.disk = disk
        self.is_dead = False
        self.left: int | None = None
        """How many changes until the power goes."""
        self._lock = lock
        self._serving: dict[int, Callable[[int, bytes], bytes]] = {
            1: lambda at, name: self._entry(self.disk.find(at, _name(name))),
            3: lambda at, _: self._attributes(self.disk.node(at)),
            4: self._set_attributes,
            8: lambda at, body: self._make(at, body[16:], struct.unpack_from("<I", body)[0], File),
            9: lambda at, body: self._make(at, body[8:], _folder_mode(body), Folder),
            10: self._unlink,
            11: self._unlink,
            12: lambda at, body: self._rename(at, body, 8),
            13: self._link,
            14: lambda *_: _OPENED.pack(0, 0, 0),
            15: self._read,
            16: self._write,
            17: lambda *_: _STATFS.pack(*ROOM, 4096, 255, 4096, 0),
            18: lambda *_: b"",
            20: self._sync,
            25: lambda *_: b"",
            26: self._init,
            27: lambda *_: _OPENED.pack(0, 0, 0),
            28: self._list,
            29: lambda *_: b"",
            30: self._sync,
            35: self._create,
            38: lambda *_: b"",
            45: lambda at, body: self._rename(at, body, 16),
        }

    def serve(self, fd: int) -> None:
        """Answer the kernel until it has unmounted."""
        while True:
            try:
                request = os.read(fd, BUFFER_BYTES)
                _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
                if opcode in (FORGET, INTERRUPT, BATCH_FORGET):
                    continue
                code, body = self._answer(opcode, node, request[_HEADER.size :])
                os.write(fd, _ANSWER.pack(_ANSWER.size + len(body), -code, unique) + body)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    os.close(fd)
                    return
                if error.errno not in (errno.EINTR, errno.ENOENT):  # who asked is gone
                    raise

    def _answer(self, opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
        with self._lock:
            if self.is_dead:
                return errno.EIO, b""
            try:
                return 0, self._serving[opcode](node, body)
            except KeyError:
                return errno.ENOSYS, b""
            except OSError as error:
                return error.errno or errno.EIO, b""

    def _changing(self) -> None:
        """Count a change; raise when the power goes before it."""
        if self.left == 0:
            self.is_dead = True
            raise fault(errno.EIO)
        if self.left is not None:
            self.left -= 1

    def _init(self, _at: int, body: bytes) -> bytes:
        major, _, readahead, _ = struct.unpack_from("<IIII", body)
        return _INIT.pack(major, 31, readahead, 1 << 5, 16, 12, MAX_WRITE_BYTES, 1, 32, 0, 0)

    # Names

    def _make(self, at: int, name: bytes, mode: int, kind: type[Node]) -> bytes:
        self._changing()
        return self._entry(self.disk.make(at, _name(name), mode, kind))

    def _create(self, at: int, body: bytes) -> bytes:
        _, mode, _, _ = struct.unpack_from("<IIII", body)
        return self._make(at, body[16:], mode, File) + _OPENED.pack(0, 0, 0)

    def _unlink(self, at: int, body: bytes) -> bytes:
        node = self.disk.find(at, _name(body))
        if isinstance(node, Folder) and node.names:
            raise fault(errno.ENOTEMPTY)
        self._changing()
        self.disk.folder(at).change({_name(body): None})
        return b""

    def _rename(self, at: int, body: bytes, names_from: int) -> bytes:
        (target,) = struct.unpack_from("<Q", body)
        old, new = body[names_from:].split(b"\0")[:2]
        if target != at:
            raise fault(errno.EXDEV)
        node = self.disk.find(at, old.decode())
        self._changing()
        self.disk.folder(at).change({old.decode(): None, new.decode(): node.number})
        return b""

    def _link(self, at: int, body: bytes) -> bytes:
        (number,) = struct.unpack_from("<Q", body)
        name, node = _name(body[8:]), self.disk.file(number)
        if name in self.disk.folder(at).names:
            raise fault(errno.EEXIST)
        self._changing()
        self.disk.folder(at).change({name: number})
        return self._entry(node)

    def _list(self, at: int, body: bytes) -> bytes:
        _, offset, size, _ = _READ.unpack_from(body)
        rows = b""
        for place, (name, number) in enumerate(sorted(self.disk.folder(at).names.items()), 1):
            encoded = name.encode()
            kind = stat.S_IFMT(self.disk.node(number).mode) >> 12
            row = _DIRENT.pack(number, place, len(encoded), kind) + encoded
            row += bytes(-len(row) % 8)
            if place > offset and len(rows) + len(row) <= size:
                rows += row
        return rows

    # Contents

    def _read(self, at: int, body: bytes) -> bytes:
        _, offset, size, _ = _READ.unpack_from(body)
        return bytes(self.disk.file(at).content[offset : offset + size])

    def _write(self, at: int, body: bytes) -> bytes:
        _, offset, size, _ = _READ.unpack_from(body)
        file = self.disk.file(at)
        self._changing()
        file.write(offset, body[40 : 40 + size])
        return struct.pack("<II", size, 0)

    def _sync(self, at: int, _body: bytes) -> bytes:
        node = self.disk.node(at)
        self._changing()
        node.sync()
        return b""

    def _set_attributes(self, at: int, body: bytes) -> bytes:
        valid, _, _, size, *_, mode = _SETATTR.unpack_from(body)
        node = self.disk.node(at)
        if valid & SET_SIZE:
            self._changing()
            self.disk.file(at).resize(size)
        if valid & SET_MODE:
            node.mode = mode
        return self._attributes(node)

    def _entry(self, node: Node) -> bytes:
        return _ENTRY.pack(node.number, 0, CACHE_S, CACHE_S, 0, 0) + _attr(node)

    def _attributes(self, node: Node) -> bytes:
        return _VALID.pack(CACHE_S, 0, 0) + _attr(node)


def _name(body: bytes) -> str:
    return body.partition(b"\0")[0].decode()


def _folder_mode(body: bytes) -> int:
    return stat.S_IFDIR | struct.unpack_from("<I", body)[0]


def _attr(node: Node) -> bytes:
    size = len(node.content) if isinstance(node, File) else 0
    times = (0,) * 6
    owner = (1, os.getuid(), os.getgid())
    return _ATTR.pack(node.number, size, -(-size // 512), *times, node.mode, *owner, 0, 4096, 0)


class Machine:
    """A disk in a machine that can be switched off and on."""

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self._lock = threading.Lock()
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        self._disk = Disk()
        self._mount = Mount(self._disk, self._lock)
        self._start()

    def arm(self, changes: int) -> str:
        """Let the power go so many changes from now."""
        with self._lock:
            self._mount.left = changes
        return "armed"

    def cut(self) -> str:
        """Let the power go now."""
        with self._lock:
            self._mount.is_dead = True
        return "off"

    def state(self) -> str:
        """Say whether the power is on."""
        return "off" if self._mount.is_dead else "on"

    def boot(self, seed: int) -> str:
        """Lose what was not safe, and mount what is left."""
        self.close()
        self._disk.power_loss(random.Random(seed))
        self._mount = Mount(self._disk, self._lock)
        self._start()
        return "on"

    def close(self) -> None:
        """Switch off and unmount."""
        self.cut()
        self._call("umount2", self._mountpoint.encode(), MNT_DETACH)

    def _start(self) -> None:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        self._call("mount", b"volatile", self._mountpoint.encode(), b"fuse", 0, options.encode())
        threading.Thread(target=self._mount.serve, args=(fd,), daemon=True).start()

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._libc, name)(*arguments) != 0:
            raise fault(ctypes.get_errno())


def main() -> None:
    machine = Machine(sys.argv[1])
    print("on", flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        print(getattr(machine, command)(*map(int, arguments)), flush=True)
    machine.close()


if __name__ == "__main__":
    main()
