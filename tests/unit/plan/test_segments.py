"""Segments of an image set: whose they are, how large, and what is wrong with images that do not have them."""

import pytest

from core.errors import ImageError
from core.images import kinds
from core.images.pb.descriptors_pb2 import FownEntry, MemfdFileEntry
from core.images.pb.files_pb2 import MEMFD, FileEntry
from core.images.pb.filesystem_pb2 import MemfdInodeEntry
from core.images.pb.memory_pb2 import VmaEntry
from core.images.pb.namespaces_pb2 import IpcDescEntry, IpcShmEntry
from core.images.store import ImageSet
from core.plan.segments import SegmentKind, SegmentNames, merge_specs, segments_of
from core.proc.sysvipc import parse_sysv_segments
from core.resources.address_space import bare_mm
from core.resources.vmas import ANON_SHARED, FILE_SHARED, SYSVIPC
from core.resources.vmas import MEMFD as MEMFD_VMA

OWNER = FownEntry(uid=0, euid=0, signum=0, pid_type=0, pid=0)
TABLE = """       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
-1325400063      77  1600               1048576  17  18      1     1     2     3     4 1795269378          0 1795269378                  4096                     0
"""  # noqa: E501


def vma(start: int, pages: int, status: int, shmid: int, **fields: int) -> VmaEntry:
    entry = VmaEntry(
        start=start, end=start + pages * 4096, pgoff=0, shmid=shmid, prot=3, flags=1, status=status, fd=-1
    )  # fmt: skip
    for name, value in fields.items():
        setattr(entry, name, value)
    return entry


def images_of(*areas: VmaEntry) -> ImageSet:
    images = ImageSet()
    images.add(kinds.MM, bare_mm(areas), 1)
    return images


def test_anonymous_memory_without_a_size_is_as_large_as_what_is_mapped_of_it() -> None:
    told = segments_of(images_of(vma(0x1000, 1, ANON_SHARED, 5, segment_size=1 << 20)))
    seen = segments_of(images_of(vma(0x1000, 1, ANON_SHARED, 5), vma(0x9000, 2, ANON_SHARED, 5, pgoff=0x4000)))
    assert (told[5].size, seen[5].size) == (1 << 20, 0x6000)
    assert merge_specs([told, seen])[5].size == merge_specs([seen, told])[5].size == 1 << 20


def test_huge_pages_are_told_by_their_size_and_no_others_are_believed() -> None:
    huge = vma(0x200000, 512, ANON_SHARED, 5, segment_size=1 << 21, flags=0x40021 | 21 << 26)
    spec = segments_of(images_of(huge))[5]
    assert (spec.page_size, spec.size, spec.mapped_size) == (2 << 20, 1 << 21, 1 << 21)
    without_flag = vma(0x200000, 512, ANON_SHARED, 5, flags=0x21 | 21 << 26)
    assert segments_of(images_of(without_flag))[5].page_size == 4096
    damaged = ImageSet()
    damaged.add(
        kinds.MEMFD_INODE,
        MemfdInodeEntry(name="x", uid=0, gid=0, size=5, shmid=50, seals=1, inode_id=9, hugetlb_flag=4 | 62 << 26),
    )
    with pytest.raises(ImageError, match="memfd:x: huge pages of 2\\^62 bytes are not carried"):
        segments_of(damaged)


def test_a_memfd_is_found_by_its_file_and_a_system_v_segment_by_its_id() -> None:
    images = images_of(vma(0x1000, 1, FILE_SHARED | MEMFD_VMA, 3), vma(0x9000, 1, ANON_SHARED | SYSVIPC, 77))
    memfd = MemfdFileEntry(id=3, flags=2, pos=0, fown=OWNER, inode_id=9)
    images.add(kinds.FILES, FileEntry(type=MEMFD, id=3, memfd=memfd))
    images.add(kinds.MEMFD_INODE, MemfdInodeEntry(name="x", uid=0, gid=0, size=5, shmid=50, seals=1, inode_id=9))
    desc = IpcDescEntry(key=1, uid=0, gid=0, cuid=0, cgid=0, mode=0o600, id=77)
    images.add(kinds.IPCNS_SHM, IpcShmEntry(desc=desc, size=7, in_pagemaps=True, segment=51), 1)
    names = SegmentNames(images)
    first, second = (names.of(entry) for entry in images.one(kinds.MM, 1).vmas)
    assert first is not None and second is not None
    assert (first.id, first.kind, first.pages_id, first.size) == (50, SegmentKind.MEMFD, 50, 5)
    assert (second.id, second.kind, second.pages_id, second.size) == (51, SegmentKind.SYSV, 77, 7)


@pytest.mark.parametrize("status", [FILE_SHARED | MEMFD_VMA, ANON_SHARED | SYSVIPC])
def test_an_area_whose_segment_is_not_there_is_a_bad_image(status: int) -> None:
    with pytest.raises(ImageError, match="not there"):
        SegmentNames(images := images_of(vma(0x1000, 1, status, 3))).of(images.one(kinds.MM, 1).vmas[0])


def test_the_kernels_list_of_segments() -> None:
    (found,) = parse_sysv_segments(TABLE)
    assert (found.key, found.id, found.mode, found.attached) == (0xB1000001, 77, 0o1600, 1)
