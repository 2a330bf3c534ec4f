"""The checkpoint/restore engine: synchronous, local, knows no network. What is exported here is all others may use.

A name's module is imported when the name is first asked for: who only wants ranges does not load the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from core.action_scripts import ActionScripts
    from core.checkpoint import DumpReport, dump
    from core.images.page_dump import PagesSink
    from core.images.page_store import PageStore
    from core.images.pagemap import DumpIds
    from core.images.store import ImageSet, decode_stream, encode_stream
    from core.kernel.process_vm import Buffer, crc32c
    from core.live.destination import LiveDestination, Parked, remove_parked, resume_parked
    from core.live.source import LiveSource
    from core.live.told import Froze, Scanned
    from core.memory.dirty.choose import probe_tracker_kind
    from core.memory.file_pages import LandingFile
    from core.memory.landing import LandingMemory
    from core.memory.pages import PageBatch, PageReader, ReadPageReader, drop_zero
    from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
    from core.options import DumpOptions, FileChoices, RestoreOptions, TerminalChoice, TrackChoice
    from core.pre_dump import PreDumpReport, pre_dump
    from core.preflight import (
        INSTRUCTION_FLAGS,
        FileNeed,
        HostRecord,
        ListenNeed,
        OptionNeed,
        PreflightOptions,
        QueueNeed,
        SysvNeed,
        TargetFindings,
        TargetRecord,
        collect_facts,
        collect_host,
        judge,
        look,
    )
    from core.restore import RestoreReport, plan_text, restore
    from core.tracee.holder import find_leaf
    from core.vdso.layout import vdso_fingerprint

_EXPORTS: Final = {
    "core.action_scripts": ("ActionScripts",),
    "core.checkpoint": ("DumpReport", "dump"),
    "core.images.page_dump": ("PagesSink",),
    "core.images.page_store": ("PageStore",),
    "core.images.pagemap": ("DumpIds",),
    "core.images.store": ("ImageSet", "decode_stream", "encode_stream"),
    "core.kernel.process_vm": ("Buffer", "crc32c"),
    "core.live.destination": ("LiveDestination", "Parked", "remove_parked", "resume_parked"),
    "core.live.source": ("LiveSource",),
    "core.live.told": ("Froze", "Scanned"),
    "core.memory.dirty.choose": ("probe_tracker_kind",),
    "core.memory.file_pages": ("LandingFile",),
    "core.memory.landing": ("LandingMemory",),
    "core.memory.pages": ("PageBatch", "PageReader", "ReadPageReader", "drop_zero"),
    "core.memory.ranges": ("EMPTY", "PAGE_SIZE", "Ranges"),
    "core.options": ("DumpOptions", "FileChoices", "RestoreOptions", "TerminalChoice", "TrackChoice"),
    "core.pre_dump": ("PreDumpReport", "pre_dump"),
    "core.preflight": (
        "INSTRUCTION_FLAGS",
        "FileNeed",
        "HostRecord",
        "ListenNeed",
        "OptionNeed",
        "PreflightOptions",
        "QueueNeed",
        "SysvNeed",
        "TargetFindings",
        "TargetRecord",
        "collect_facts",
        "collect_host",
        "judge",
        "look",
    ),
    "core.restore": ("RestoreReport", "plan_text", "restore"),
    "core.tracee.holder": ("find_leaf",),
    "core.vdso.layout": ("vdso_fingerprint",),
}
_HOMES: Final = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "EMPTY",
    "INSTRUCTION_FLAGS",
    "PAGE_SIZE",
    "ActionScripts",
    "Buffer",
    "DumpIds",
    "DumpOptions",
    "DumpReport",
    "FileChoices",
    "FileNeed",
    "Froze",
    "HostRecord",
    "ImageSet",
    "LandingFile",
    "LandingMemory",
    "ListenNeed",
    "LiveDestination",
    "LiveSource",
    "OptionNeed",
    "PageBatch",
    "PageReader",
    "PageStore",
    "PagesSink",
    "Parked",
    "PreDumpReport",
    "PreflightOptions",
    "QueueNeed",
    "Ranges",
    "ReadPageReader",
    "RestoreOptions",
    "RestoreReport",
    "Scanned",
    "SysvNeed",
    "TargetFindings",
    "TargetRecord",
    "TerminalChoice",
    "TrackChoice",
    "collect_facts",
    "collect_host",
    "crc32c",
    "decode_stream",
    "drop_zero",
    "dump",
    "encode_stream",
    "find_leaf",
    "judge",
    "look",
    "plan_text",
    "pre_dump",
    "probe_tracker_kind",
    "remove_parked",
    "restore",
    "resume_parked",
    "vdso_fingerprint",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'core' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    globals().update({each: getattr(home, each) for each in _EXPORTS[_HOMES[name]]})  # `restore` over the module
    return globals()[name]
