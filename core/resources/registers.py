"""Registers of a thread: collect() into CRIU's fields plus our raw xsave area, and back into a ThreadState.

The raw area wins when both are there; an image without it (CRIU's own) is put together from the fields.
"""

import struct
from typing import Final

from core.errors import ImageError
from core.images import kinds
from core.images.pb.core_pb2 import CoreEntry
from core.images.pb.inventory_pb2 import XsaveComponent
from core.images.pb.x86_pb2 import NATIVE, ThreadInfoX86, UserX86FpregsEntry, UserX86RegsEntry, UserX86XsaveEntry
from core.images.store import ImageSet
from core.kernel.threads import REGISTER_NAMES, Registers, Rseq, ThreadState
from core.kernel.xsave import (
    EXTENDED,
    LEGACY_AND_HEADER,
    Layout,
    area_size,
    component_names,
    component_place,
    layout,
    xcr0,
)
from core.tracee.sigframe import ended_by_a_stop, made_again, rewound

LEGACY: Final = struct.Struct("<HHHHQQII128s256s")  # fxsave: control … mxcsr_mask, st, xmm; 416 bytes
XSTATE_BV: Final = 512
X87_AND_SSE: Final = 3
AMX_TILE_DATA: Final = 18
# component number → (field of UserX86XsaveEntry, bytes per element, bytes in all)
COMPONENTS: Final = {
    2: ("ymmh_space", 4, 256),
    3: ("bndreg_state", 8, 64),
    4: ("bndcsr_state", 8, 64),  # two words and padding
    5: ("opmask_reg", 8, 64),
    6: ("zmm_upper", 8, 512),
    7: ("hi16_zmm", 8, 1024),
    9: ("pkru", 4, 8),
}


NO_FPREGS: Final = UserX86FpregsEntry(cwd=0, swd=0, twd=0, fop=0, rip=0, rdp=0, mxcsr=0, mxcsr_mask=0)


def collect(registers: Registers, clear_child_tid: int) -> ThreadInfoX86:
    """CRIU's thread_info of a stopped thread; interrupted syscalls are rewound, as there is no restart over there.

    Floating-point registers are those of complete(): who has the raw area needs none.
    """
    gpregs = dict(zip(REGISTER_NAMES, rewound(registers), strict=True))
    return ThreadInfoX86(
        clear_tid_addr=clear_child_tid, gpregs=UserX86RegsEntry(**gpregs, mode=NATIVE), fpregs=NO_FPREGS
    )  # fmt: skip


def collect_layout() -> list[XsaveComponent]:
    """What lies where in the raw areas of this processor."""
    return [XsaveComponent(number=number, offset=offset, size=size) for number, offset, size in layout()]


def complete_all(images: ImageSet) -> None:
    """complete() for every thread of a set."""
    for id in images.ids(kinds.CORE):
        complete(images.one(kinds.CORE, id))


def complete(core: CoreEntry) -> None:
    """Fill in the floating-point registers as CRIU has them from our raw area, if there is one."""
    if core.thread_core.xstate:
        core.thread_info.fpregs.CopyFrom(_collect_fpregs(core.thread_core.xstate))


def uses_amx(xstate: bytes) -> bool:
    """True when AMX tiles hold data: nobody can put those back."""
    return bool(xstate_features(xstate) >> AMX_TILE_DATA & 1)


def xstate_features(xstate: bytes) -> int:
    """XSTATE_BV: which components are not in their initial state."""
    return int.from_bytes(xstate[XSTATE_BV : XSTATE_BV + 8], "little")


def _collect_fpregs(xstate: bytes) -> UserX86FpregsEntry:
    cwd, swd, twd, fop, rip, rdp, mxcsr, mxcsr_mask, st, xmm = LEGACY.unpack_from(xstate)
    return UserX86FpregsEntry(
        cwd=cwd,
        swd=swd,
        twd=twd,
        fop=fop,
        rip=rip,
        rdp=rdp,
        mxcsr=mxcsr,
        mxcsr_mask=mxcsr_mask,
        st_space=struct.unpack("<32I", st),
        xmm_space=struct.unpack("<64I", xmm),
        padding=[0] * 24,
        xsave=_collect_xsave(xstate),
    )


def _collect_xsave(xstate: bytes) -> UserX86XsaveEntry:
    entry = UserX86XsaveEntry(xstate_bv=xstate_features(xstate) & ~(3 << 17))
    for component, (field, width, size) in COMPONENTS.items():
        place = component_place(component)
        content = bytes(size) if place is None else xstate[place[0] : place[0] + size].ljust(size, b"\0")
        getattr(entry, field).extend(struct.unpack(f"<{size // width}{'I' if width == 4 else 'Q'}", content))
    return entry


def layout_of(images: ImageSet) -> Layout:
    """Of the raw areas in a set's cores; nothing in one of CRIU's, which has none. ImageError."""
    places = images.one(kinds.INVENTORY).xsave_layout
    found = {place.number: (place.number, place.offset, place.size) for place in places}
    if len(found) != len(places) or not found.keys() <= set(EXTENDED):
        raise ImageError(kinds.INVENTORY.file_name(), "names a component of the xsave area twice, or one that is none")
    return tuple(found.values())


def thread_state(core: CoreEntry, tid: int, sigmask: int, theirs: Layout = ()) -> ThreadState:
    """What the thread `tid` is to be, from its core image with a raw area that is laid out like `theirs`.

    ImageError when a field cannot be, or when registers that this processor lacks hold something.
    """
    info, thread = core.thread_info, core.thread_core
    if info.gpregs.mode != NATIVE:
        raise ImageError(f"core of {tid}", "is a 32-bit task, which is not carried")
    registers = Registers(**{name: getattr(info.gpregs, name) for name in REGISTER_NAMES})
    registers = _undisturbed(core, registers, sigmask)
    rseq = thread.rseq_entry
    return ThreadState(
        tid=tid,
        registers=registers,
        xstate=_xstate(core, tid, theirs),
        sigmask=sigmask,
        rseq=Rseq(rseq.rseq_abi_pointer, rseq.rseq_abi_size, rseq.signature, 0),
        robust_list=(thread.futex_rla, thread.futex_rla_len),
    )


def _undisturbed(core: CoreEntry, registers: Registers, sigmask: int) -> Registers:
    """criu's dump ends a sleep with EINTR. Where no signal is to be taken nothing else can have: it is made again."""
    by_criu = not core.thread_core.xstate
    if not by_criu or not ended_by_a_stop(registers):
        return registers
    pending = [*core.thread_core.signals_p.signals, *core.tc.signals_s.signals]
    signals = [one for one in pending if not sigmask << 1 >> int.from_bytes(one.siginfo[:4], "little") & 1]
    return registers if signals else made_again(registers)


def _xstate(core: CoreEntry, tid: int, theirs: Layout) -> bytes:
    raw, fpregs = core.thread_core.xstate, core.thread_info.fpregs
    if raw and len(raw) < LEGACY_AND_HEADER:
        raise ImageError(f"core of {tid}", f"an xsave area of {len(raw)} bytes")
    in_use = xstate_features(raw) if raw else fpregs.xsave.xstate_bv
    if theirs and in_use & ~sum(1 << number for number, _, _ in theirs) & ~X87_AND_SSE:
        raise ImageError(f"core of {tid}", "uses registers of which inventory.img does not say where they are")
    if lost := in_use & ~xcr0():
        reason = f"uses the registers of {component_names(lost)}, which this processor lacks"
        raise ImageError(f"core of {tid}", reason, hint="restore it on a host with the same or a newer processor")
    return fitted_xstate(raw, theirs) if raw else _assemble(fpregs)


def fitted_xstate(xstate: bytes, theirs: Layout) -> bytes:
    """An area that is laid out like `theirs`, as this kernel takes it: every component at its place, none left over."""
    full = area_size(xcr0())
    if theirs in ((), layout()):
        return xstate[:full].ljust(full, b"\0")
    area = bytearray(full)
    area[:LEGACY_AND_HEADER] = xstate[:LEGACY_AND_HEADER]
    for component, offset, size in theirs:
        if place := component_place(component):
            _put(area, place, xstate[offset : offset + size])
    return bytes(area)


def _assemble(fpregs: UserX86FpregsEntry) -> bytes:
    try:
        legacy = LEGACY.pack(
            fpregs.cwd, fpregs.swd, fpregs.twd, fpregs.fop, fpregs.rip, fpregs.rdp, fpregs.mxcsr, fpregs.mxcsr_mask,
            struct.pack("<32I", *fpregs.st_space), struct.pack("<64I", *fpregs.xmm_space),
        )  # fmt: skip
    except struct.error as error:
        raise ImageError("core", f"floating-point registers: {error}") from error
    area = bytearray(area_size(xcr0()))
    area[: len(legacy)] = legacy
    features = fpregs.xsave.xstate_bv if fpregs.HasField("xsave") else 3
    area[XSTATE_BV : XSTATE_BV + 8] = features.to_bytes(8, "little")
    for component, (field, width, size) in COMPONENTS.items():
        _put_component(area, component, list(getattr(fpregs.xsave, field)), width, size)
    return bytes(area)


def _put_component(area: bytearray, component: int, words: list[int], width: int, size: int) -> None:
    place = component_place(component)
    if place is None or not words:
        return
    _put(area, place, struct.pack(f"<{len(words)}{'I' if width == 4 else 'Q'}", *words)[:size])


def _put(area: bytearray, place: tuple[int, int], content: bytes) -> None:
    offset, size = place
    area[offset : offset + min(size, len(content))] = content[:size]
