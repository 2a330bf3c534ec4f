"""Every kind of image file: its name, magic, message class and what raw bytes follow a message. A table, no I/O.

Names, magics and layout are those of CRIU's format v1.1, as its releases 3.17 to 4.x write it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from core.errors import ImageError
from core.images import payloads
from core.images.pb.cgroup_pb2 import CgroupEntry
from core.images.pb.core_pb2 import CoreEntry
from core.images.pb.cpuinfo_pb2 import CpuinfoEntry
from core.images.pb.descriptors_pb2 import BpfmapDataEntry, MqueueEntry, PipeDataEntry
from core.images.pb.files_pb2 import FdinfoEntry, FdTypes, FileEntry
from core.images.pb.filesystem_pb2 import (
    AutofsEntry,
    BinfmtMiscEntry,
    FileLockEntry,
    FsEntry,
    GhostChunkEntry,
    GhostFileEntry,
    MemfdInodeEntry,
    RemapFilePathEntry,
)
from core.images.pb.fsnotify_pb2 import IrmapCacheEntry
from core.images.pb.ids_pb2 import TaskKobjIdsEntry
from core.images.pb.inventory_pb2 import InventoryEntry
from core.images.pb.memory_pb2 import MmEntry
from core.images.pb.namespaces_pb2 import (
    IpcMsgEntry,
    IpcSemEntry,
    IpcShmEntry,
    IpcVarEntry,
    MntEntry,
    PidnsEntry,
    TimensEntry,
    UsernsEntry,
    UtsnsEntry,
)
from core.images.pb.network_pb2 import NetDeviceEntry, NetnsEntry
from core.images.pb.pagemap_pb2 import PagemapEntry, PagemapHead
from core.images.pb.pstree_pb2 import PstreeEntry
from core.images.pb.seccomp_pb2 import SeccompEntry
from core.images.pb.sockets_pb2 import SkPacketEntry, TcpStreamEntry
from core.images.pb.stats_pb2 import StatsEntry
from core.images.pb.tty_pb2 import TtyDataEntry, TtyInfoEntry

for _name, _number in FdTypes.items():
    setattr(FdTypes, _name, _number)  # else it is looked for in descriptors whenever somebody names it

M = TypeVar("M", bound=Message)

# The first word of every file but inventory.img, which starts with its own magic.
COMMON_MAGIC = 0x54564319
SERVICE_MAGIC = 0x55105940

# pages-N.img has no header and no messages: raw pages, located by a pagemap file.
PAGES_FILE_NAME = "pages-{id}.img"


@dataclass(frozen=True, slots=True, eq=False)
class Kind(Generic[M]):
    """One kind of image file. Two kinds are equal only when they are the same object."""

    name: str
    magic: int
    pattern: str  # with {id} or, in hexadecimal, {id:x} where there is a file per task, table, inode…
    message: type[M]
    single: bool = False  # exactly one message
    head: type[M] | None = None  # class of the first message where it is not that of the others
    service: bool = False
    payload_size: Callable[[M, memoryview], int] = payloads.none

    @property
    def has_id(self) -> bool:
        """True when there can be several files of this kind."""
        return "{id" in self.pattern

    def file_name(self, id: int | None = None) -> str:
        """Name of the file of this kind for `id`; ValueError when an id is missing or too many."""
        if self.has_id != (id is not None):
            raise ValueError(f"{self.pattern}: {'an id is needed' if self.has_id else 'takes no id'}")
        return self.pattern.format(id=id)

    def message_class(self, index: int) -> type[M]:
        """Class of the message at `index` in the file."""
        return self.head if index == 0 and self.head is not None else self.message

    @property
    def header(self) -> bytes:
        """What a file of this kind starts with."""
        words = [self.magic]
        if self is not INVENTORY:
            words.insert(0, SERVICE_MAGIC if self.service else COMMON_MAGIC)
        return b"".join(word.to_bytes(4, "little") for word in words)


INVENTORY = Kind("INVENTORY", 0x58313116, "inventory.img", InventoryEntry, single=True)
PSTREE = Kind("PSTREE", 0x50273030, "pstree.img", PstreeEntry)
CORE = Kind("CORE", 0x55053847, "core-{id}.img", CoreEntry, single=True)
IDS = Kind("IDS", 0x54432030, "ids-{id}.img", TaskKobjIdsEntry, single=True)
MM = Kind("MM", 0x57492820, "mm-{id}.img", MmEntry, single=True)
FS = Kind("FS", 0x51403912, "fs-{id}.img", FsEntry, single=True)

PAGEMAP: Kind[PagemapHead | PagemapEntry] = Kind(
    "PAGEMAP", 0x56084025, "pagemap-{id}.img", PagemapEntry, head=PagemapHead
)
SHMEM_PAGEMAP: Kind[PagemapHead | PagemapEntry] = Kind(
    "SHMEM_PAGEMAP", 0x56084025, "pagemap-shmem-{id}.img", PagemapEntry, head=PagemapHead
)

FDINFO = Kind("FDINFO", 0x56213732, "fdinfo-{id}.img", FdinfoEntry)
FILES = Kind("FILES", 0x56303138, "files.img", FileEntry)
PIPES_DATA = Kind("PIPES_DATA", 0x56453709, "pipes-data.img", PipeDataEntry, payload_size=payloads.pipe)
FIFO_DATA = Kind("FIFO_DATA", 0x59333054, "fifo-data.img", PipeDataEntry, payload_size=payloads.pipe)
SK_QUEUES = Kind("SK_QUEUES", 0x56264026, "sk-queues.img", SkPacketEntry, payload_size=payloads.packet)
TCP_STREAM = Kind(
    "TCP_STREAM", 0x51465506, "tcp-stream-{id:x}.img", TcpStreamEntry, single=True, payload_size=payloads.tcp
)
TTY_INFO = Kind("TTY_INFO", 0x59453036, "tty-info.img", TtyInfoEntry)
TTY_DATA = Kind("TTY_DATA", 0x59413026, "tty-data.img", TtyDataEntry)
MQUEUE = Kind("MQUEUE", 0x4D515545, "mqueue.img", MqueueEntry)  # ours
BPFMAP_DATA = Kind("BPFMAP_DATA", 0x64324033, "bpfmap-data.img", BpfmapDataEntry, payload_size=payloads.bpf_map)

REMAP_FPATH = Kind("REMAP_FPATH", 0x59133954, "remap-fpath.img", RemapFilePathEntry)
GHOST_FILE: Kind[GhostFileEntry | GhostChunkEntry] = Kind(
    "GHOST_FILE",
    0x52583605,
    "ghost-file-{id:x}.img",
    GhostChunkEntry,
    head=GhostFileEntry,
    payload_size=payloads.ghost,
)
MEMFD_INODE = Kind("MEMFD_INODE", 0x48453499, "memfd.img", MemfdInodeEntry)
FILE_LOCKS = Kind("FILE_LOCKS", 0x54323616, "filelocks.img", FileLockEntry)

SECCOMP = Kind("SECCOMP", 0x64413049, "seccomp.img", SeccompEntry, single=True)
CGROUP = Kind("CGROUP", 0x59383330, "cgroup.img", CgroupEntry, single=True)
CPUINFO = Kind("CPUINFO", 0x61404013, "cpuinfo.img", CpuinfoEntry, single=True)

UTSNS = Kind("UTSNS", 0x54473203, "utsns-{id}.img", UtsnsEntry, single=True)
TIMENS = Kind("TIMENS", 0x43114433, "timens-{id}.img", TimensEntry, single=True)
PIDNS = Kind("PIDNS", 0x61157326, "pidns-{id}.img", PidnsEntry, single=True)
USERNS = Kind("USERNS", 0x55474906, "userns-{id}.img", UsernsEntry, single=True)
IPC_VAR = Kind("IPC_VAR", 0x53115007, "ipcns-var-{id}.img", IpcVarEntry, single=True)
IPCNS_SHM = Kind("IPCNS_SHM", 0x46283044, "ipcns-shm-{id}.img", IpcShmEntry, payload_size=payloads.ipc_shm)
IPCNS_SEM = Kind("IPCNS_SEM", 0x59573019, "ipcns-sem-{id}.img", IpcSemEntry, payload_size=payloads.ipc_sem)
IPCNS_MSG = Kind("IPCNS_MSG", 0x55453737, "ipcns-msg-{id}.img", IpcMsgEntry, payload_size=payloads.ipc_msg)
MNTS = Kind("MNTS", 0x55563928, "mountpoints-{id}.img", MntEntry)
AUTOFS = Kind("AUTOFS", 0x49353943, "autofs-{id}.img", AutofsEntry)
BINFMT_MISC = Kind("BINFMT_MISC", 0x67343323, "binfmt-misc.img", BinfmtMiscEntry)
NETNS = Kind("NETNS", 0x55933752, "netns-{id}.img", NetnsEntry, single=True)
NETDEV = Kind("NETDEV", 0x57373951, "netdev-{id}.img", NetDeviceEntry)

STATS = Kind("STATS", 0x57093306, "stats-dump", StatsEntry, single=True, service=True)
STATS_RESTORE = Kind("STATS_RESTORE", 0x57093306, "stats-restore", StatsEntry, single=True, service=True)
IRMAP_CACHE = Kind("IRMAP_CACHE", 0x57004059, "irmap-cache", IrmapCacheEntry, service=True)

KINDS: dict[str, Kind[Message]] = {value.name: value for value in list(globals().values()) if isinstance(value, Kind)}

_ID = {"{id}": r"([0-9]{1,20})", "{id:x}": r"([0-9a-f]{1,16})"}


def _expression(pattern: str) -> re.Pattern[str]:
    """The regular expression that finds the id in a file name."""
    return re.compile("".join(_ID.get(part, re.escape(part)) for part in re.split(r"(\{.*\})", pattern)))


_EXPRESSIONS = [(_expression(kind.pattern), kind) for kind in KINDS.values()]


def is_image_name(name: str) -> bool:
    """True for names of image files, of known kind or not; logs, pid files and the like are not ours to judge."""
    return name.endswith(".img") or any(expression.fullmatch(name) for expression, _ in _EXPRESSIONS)


def is_pages_name(name: str) -> bool:
    """True for pages-N.img, the files of raw pages."""
    return re.fullmatch(r"pages-[0-9]{1,20}\.img", name) is not None


def parse_file_name(name: str) -> tuple[Kind[Message], int | None]:
    """The kind and the id a file's name tells; ImageError when no kind has that name."""
    for expression, kind in _EXPRESSIONS:
        if match := expression.fullmatch(name):
            id = int(match[1], 16 if "{id:x}" in kind.pattern else 10) if kind.has_id else None
            if kind.file_name(id) == name:
                return kind, id
    raise ImageError(name, "no kind of image that we carry has this name")
