"""Parsers of /proc by value: what old and new kernels write, and what no kernel writes."""

from collections.abc import Callable

import pytest

from core.errors import CollectError
from core.proc.auxv import auxv_value, parse_auxv
from core.proc.limits import UNLIMITED, parse_limits
from core.proc.maps import parse_between, parse_maps, parse_named, parse_smaps
from core.proc.mountinfo import cgroup2_mount_point, mount_of, parse_mountinfo
from core.proc.sockets import format_address, parse_inet, parse_inodes, parse_unix
from core.proc.stat import parse_stat
from core.proc.status import parse_status
from core.proc.timers import PosixTimer, parse_timers

MAPS = """\
557a5f3b3000-557a5f3b5000 r--p 00000000 fe:00 260386                     /usr/bin/head
557a5f3b5000-557a5f3bb000 r-xp 00002000 fe:00 260386                     /usr/bin/head
557a70000000-557a70021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000001000 rw-s 00000000 00:01 1042                       /dev/zero (deleted)
7f0000001000-7f0000002000 r--p 00000000 08:02 77                         /srv/a b\\012c (deleted)
7f0000002000-7f0000003000 ---p 00000000 00:00 0 
7fff00000000-7fff00001000 r--p 00000000 00:00 0                          [vvar_vclock]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""  # noqa: W291

STATUS_6_1 = """\
Name:\tredis \\\\ server
Umask:\t0027
State:\tS (sleeping)
Tgid:\t812
Ngid:\t0
Pid:\t812
PPid:\t1
TracerPid:\t0
Uid:\t105\t105\t105\t105
Gid:\t112\t113\t114\t115
FDSize:\t64
Groups:\t4 112 
NStgid:\t812\t7
NSpid:\t812\t7
NSpgid:\t812\t7
NSsid:\t812\t7
VmSize:\t   65536 kB
VmLck:\t       0 kB
VmRSS:\t    8192 kB
VmSwap:\t      12 kB
Threads:\t5
SigQ:\t1/96365
SigPnd:\t0000000000000000
ShdPnd:\t0000000000000200
SigBlk:\t0000000000010000
SigIgn:\t0000000000001001
SigCgt:\t00000001800044e8
CapInh:\t0000000000000000
CapPrm:\t0000000000000400
CapEff:\t0000000000000400
CapBnd:\t000001ffffffffff
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t1
Cpus_allowed:\t00000001,00000003
Cpus_allowed_list:\t0-1,32
"""  # noqa: W291

STAT = (
    "812 (a) b (c) S 1 812 812 0 -1 4194560 2289 0 3 0 11 12 0 0 20 0 5 0 210195 67108864 2048 18446744073709551615 "
    "1000 2000 140737488355328 0 0 0 65536 4097 17640 0 0 0 17 1 0 0 0 0 0 3000 4000 5000 6000 6010 6010 6999 256\n"
)


def test_maps_of_every_kind() -> None:
    vmas = parse_maps(MAPS)
    head, text, heap, shared, deleted, nameless, vvar, _vsyscall = vmas
    assert (head.start, head.end, head.device, head.inode) == (0x557A5F3B3000, 0x557A5F3B5000, (0xFE, 0), 260386)
    assert (text.executable, text.writable, text.offset, text.path) == (True, False, 0x2000, "/usr/bin/head")
    assert (heap.name, heap.is_anonymous, heap.writable) == ("[heap]", True, True)
    assert (shared.shared, shared.is_anonymous, shared.is_deleted) == (True, False, True)
    assert (deleted.path, deleted.name) == ("/srv/a b\nc (deleted)", "")
    assert (nameless.path, nameless.readable, nameless.size) == ("", False, 4096)
    assert (vvar.name, vvar.inode) == ("[vvar_vclock]", 0)


def test_some_of_many_maps_are_those_of_all() -> None:
    vmas = parse_maps(MAPS)
    for name in {vma.name for vma in vmas if vma.name} | {"[none]"}:
        assert parse_named(MAPS, name) == tuple(vma for vma in vmas if vma.name == name)
    edges = [edge + shift for vma in vmas for edge in (vma.start, vma.end) for shift in (-1, 0, 1)]
    for start in edges:
        for end in (edge for edge in edges if edge > start):
            assert parse_between(MAPS, start, end) == tuple(vma for vma in vmas if vma.start < end and vma.end > start)


def test_smaps_joins_flags_to_their_vma() -> None:
    text = MAPS.splitlines()[0] + "\nSize: 8 kB\nRss:                   4 kB\nSwap: 12 kB\nVmFlags: rd mr mw me uw \n"
    text += MAPS.splitlines()[2] + "\nSize: 132 kB\nRss: 0 kB\nVmFlags: rd wr \n"
    first, second = parse_smaps(text)
    assert first.flags == {"rd", "mr", "mw", "me", "uw"}
    assert (first.rss_bytes, first.swap_bytes) == (4096, 12288)
    assert (second.vma.name, second.flags, second.rss_bytes) == ("[heap]", {"rd", "wr"}, 0)


def test_status_of_a_6_1_kernel_lacks_kthread() -> None:
    status = parse_status(STATUS_6_1)
    assert (status.name, status.umask, status.state, status.threads) == ("redis \\ server", 0o027, "S", 5)
    assert status.kthread is None
    assert (status.uids, status.gids, status.groups) == ((105,) * 4, (112, 113, 114, 115), (4, 112))
    assert (status.ns_pid, status.shared_pending, status.cap_eff) == ((812, 7), 0x200, 0x400)
    assert (status.no_new_privs, status.seccomp, status.seccomp_filters) == (True, 2, 1)
    assert (status.cpus_allowed, status.vm_rss, status.sig_queued) == ({0, 1, 32}, 8 << 20, (1, 96365))


def test_a_name_cut_within_a_character_loses_the_rest_of_it() -> None:
    cut = "gr\u00fc\u00df".encode()[:-1].decode("utf-8", "surrogateescape")
    assert parse_status(STATUS_6_1.replace("redis", cut)).name == "gr\u00fc \\ server"
    assert parse_stat(STAT.replace("(a) b (c)", f"({cut})")).comm == "gr\u00fc"


def test_status_of_a_kernel_thread_has_no_sizes() -> None:
    text = "\n".join(line for line in STATUS_6_1.splitlines() if not line.startswith(("Vm", "NoNewPrivs", "Umask")))
    status = parse_status(text + "\nKthread:\t1\n")
    assert (status.vm_size, status.no_new_privs, status.umask, status.kthread) == (None, None, None, True)


def test_stat_with_blanks_and_parentheses_in_its_comm() -> None:
    stat = parse_stat(STAT)
    assert (stat.pid, stat.comm, stat.state, stat.ppid, stat.session) == (812, "a) b (c", "S", 1, 812)
    assert (stat.start_time, stat.start_code, stat.end_code) == (210195, 1000, 2000)
    assert (stat.start_data, stat.start_brk, stat.arg_start) == (3000, 5000, 6000)
    assert (stat.env_end, stat.exit_code) == (6999, 256)


def test_stat_of_a_newer_kernel_with_one_more_field() -> None:
    assert parse_stat(STAT.strip() + " 99\n").exit_code == 256


def test_mountinfo_finds_the_mount_of_a_path() -> None:
    mounts = parse_mountinfo(
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "30 22 0:40 /exports /srv/a\\040b ro - nfs4 host:/x ro,vers=4.2\n"
        "31 22 0:28 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n"
    )
    assert mounts[0].propagation == ("shared:1",)
    nfs = mount_of(mounts, "/srv/a b/file")
    assert nfs is not None and nfs.is_network and nfs.root == "/exports"
    other = mount_of(mounts, "/srv/a bc")
    assert other is not None and other.filesystem == "ext4" and not other.is_network
    assert cgroup2_mount_point(mounts) == "/sys/fs/cgroup/unified"


def test_timers_one_and_many() -> None:
    one = "ID: {}\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n"
    assert parse_timers("") == ()
    assert parse_timers(one.format(0)) == (PosixTimer(0, 60, 0x7FFF86E452A8, "signal", 2634, 0),)
    assert [timer.timer_id for timer in parse_timers(one.format(0) + one.format(3))] == [0, 3]


def test_auxv_words_and_lookup() -> None:
    words = parse_auxv(b"".join(word.to_bytes(8, "little") for word in (33, 0x7FFF0000, 6, 4096, 0, 0)))
    assert (auxv_value(words, 33), auxv_value(words, 9)) == (0x7FFF0000, None)


def test_limits_with_kernel_numbers() -> None:
    limits = parse_limits(
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max cpu time              unlimited            unlimited            seconds   \n"
        "Max open files            1024                 4096                 files     \n"
        "Max nice priority         0                    0                    \n"
    )
    assert [(limit.resource, limit.soft, limit.hard) for limit in limits] == [
        (0, UNLIMITED, UNLIMITED), (7, 1024, 4096), (13, 0, 0),
    ]  # fmt: skip


def test_inet_addresses_in_host_order() -> None:
    heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    tail = "00000000:00000000 00:00000000 00000000   105        0 4711 1 0 100 0 0 10 0\n"
    (four,) = parse_inet(heading + f"   0: 0100007F:18EB 00000000:0000 0A {tail}", "tcp")
    loopback = "00000000000000000000000001000000"
    (six,) = parse_inet(heading + f"   0: {loopback}:0050 {loopback}:C001 01 {tail}", "tcp6")
    assert (four.local, four.state_name, four.inode) == (("127.0.0.1", 6379), "LISTEN", 4711)
    assert (format_address(six.local), format_address(six.remote)) == ("[::1]:80", "[::1]:49153")


def test_unix_sockets_listening_connected_abstract() -> None:
    listening, connected, abstract = parse_unix(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 17000 /run/a b.sock\n"
        "0000000000000000: 00000003 00000000 00000000 0001 03 17001\n"
        "0000000000000000: 00000002 00000000 00000000 0002 01 17002 @name\n"
    )
    assert (listening.is_listening, listening.path) == (True, "/run/a b.sock")
    assert (connected.is_connected, connected.path) == (True, "")
    assert (abstract.kind, abstract.path, abstract.is_listening) == (2, "@name", False)


def test_inodes_of_a_table_with_a_heading() -> None:
    assert parse_inodes("sk Eth Inode\nffff 0 1026\nffff 16 4\n", "Inode", "net/netlink") == {1026, 4}


@pytest.mark.parametrize(
    ("parse", "text", "subject"),
    [
        (parse_maps, MAPS + "7f00-7f01 rwxz 0 00:00 0\n", "maps line 9"),
        (parse_maps, "7f00 r--p\n", "maps line 1"),
        (parse_smaps, MAPS.splitlines()[0] + "\nRss: many kB\n", "smaps line 2"),
        (parse_status, STATUS_6_1.replace("SigPnd:\t0", "SigPnd:\tx"), "status line 23"),
        (parse_status, STATUS_6_1.replace("Uid:\t105", "Uid:"), "status line 9"),
        (parse_status, "Name:\tx\nnonsense\n", "status line 2"),
        (parse_stat, "812 (sleep S 1 2", "stat line 1"),
        (parse_stat, "812 (sleep) S 1 2", "stat line 1"),
        (parse_mountinfo, "22 1 254:0 / / rw ext4\n", "mountinfo line 1"),
        (parse_timers, "ID: 0\nsignal: 60/0\n", "timers line 1"),
        (parse_limits, "Max open files            lots                 4096                 files\n", "limits line 1"),
        (parse_unix, "Num\n0: 1 2\n", "net/unix line 2"),
        (lambda text: parse_inet(text, "tcp"), "sl\n 0: 0100007F 00000000:0000 0A\n", "net/tcp line 2"),
    ],
)
def test_malformed_text_names_file_and_line(parse: Callable[[str], object], text: str, subject: str) -> None:
    with pytest.raises(CollectError) as caught:
        parse(text)
    assert caught.value.subject == subject


def test_a_missing_line_is_named() -> None:
    with pytest.raises(CollectError, match="has no line Tgid"):
        parse_status(STATUS_6_1.replace("Tgid", "Rgid"))


def test_half_an_auxv_entry_is_refused() -> None:
    with pytest.raises(CollectError, match="64-bit"):
        parse_auxv(bytes(12))
