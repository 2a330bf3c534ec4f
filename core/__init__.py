"""The checkpoint/restore engine: synchronous, local, knows no network. What is exported here is all others may use."""

from core.action_scripts import ActionScripts
from core.checkpoint import DumpReport, dump
from core.images.page_dump import PagesSink
from core.images.page_store import PageStore
from core.images.pagemap import DumpIds
from core.images.store import ImageSet, decode_stream, encode_stream
from core.kernel.process_vm import Buffer, crc32c
from core.live.destination import LiveDestination, Parked, remove_parked, resume_parked
from core.live.source import Froze, LiveSource, Scanned
from core.memory.dirty.choose import probe_tracker_kind
from core.memory.file_pages import LandingFile
from core.memory.landing import LandingMemory
from core.memory.pages import PageBatch, PageReader, ReadPageReader, drop_zero
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.options import DumpOptions, FileChoices, RestoreOptions, TrackChoice
from core.pre_dump import PreDumpReport, pre_dump
from core.preflight import (
    FileNeed,
    HostRecord,
    ListenNeed,
    PreflightOptions,
    SysvNeed,
    TargetFindings,
    TargetRecord,
    collect_facts,
    collect_host,
    judge,
    look,
)
from core.prepare import prepare
from core.restore import RestoreReport, plan_text, restore
from core.vdso.layout import vdso_fingerprint

__all__ = [
    "EMPTY",
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
    "PageBatch",
    "PageReader",
    "PageStore",
    "PagesSink",
    "Parked",
    "PreDumpReport",
    "PreflightOptions",
    "Ranges",
    "ReadPageReader",
    "RestoreOptions",
    "RestoreReport",
    "Scanned",
    "SysvNeed",
    "TargetFindings",
    "TargetRecord",
    "TrackChoice",
    "collect_facts",
    "collect_host",
    "crc32c",
    "decode_stream",
    "drop_zero",
    "dump",
    "encode_stream",
    "judge",
    "look",
    "plan_text",
    "pre_dump",
    "prepare",
    "probe_tracker_kind",
    "remove_parked",
    "restore",
    "resume_parked",
    "vdso_fingerprint",
]
