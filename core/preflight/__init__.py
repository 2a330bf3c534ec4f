"""Preflight: every reason why a migration would not work, found before anything is touched."""

from core.kernel.posix_mqueue import QueueNeed
from core.preflight.destination import Destination, look
from core.preflight.host import collect_host
from core.preflight.judge import INSTRUCTION_FLAGS, Verdict, judge
from core.preflight.records import FileNeed, HostRecord, ListenNeed, OptionNeed, PreflightOptions, TargetRecord
from core.preflight.target import TargetFindings, collect_facts
from core.proc.sysvipc import SysvNeed

__all__ = [
    "INSTRUCTION_FLAGS", "Destination", "FileNeed", "HostRecord", "ListenNeed", "OptionNeed", "PreflightOptions",
    "QueueNeed", "SysvNeed", "TargetFindings", "TargetRecord", "Verdict", "collect_facts", "collect_host", "judge",
    "look",
]  # fmt: skip
