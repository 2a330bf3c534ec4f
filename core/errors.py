"""Every error this product raises on purpose.

    MigrateError                    message, hint
    ├── UsageError                  the command line or a request is wrong (exit 2)
    ├── Refused                     blockers found before anything was touched (exit 3)
    ├── KernelLacks                 a kernel feature or capability is missing
    ├── ImageError                  an image file is truncated, corrupt or of another version
    ├── TraceeError                 a task could not be stopped, read or borrowed
    │   ├── RemoteSyscallError      a syscall inside a task failed: pid, op, errno
    │   └── NotBorrowable           it lacks the code to be borrowed by; as it does while a program starts
    ├── CollectError                state of the target that cannot be carried or read
    ├── RestoreError                the plan failed in a task; nothing of it was left behind
    ├── ScriptError                 an action script failed or took too long
    └── PageStreamError             a page frame is bad or the stream broke

An error's text is "object: action: reason"; `hint` says what the user can do about it.
"""

import errno as errno_names
from dataclasses import dataclass


class MigrateError(Exception):
    """Base of all our errors; str() is the message, `hint` what to do about it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MigrateError):
    """The command line or the request is wrong; nothing was done."""


@dataclass(frozen=True, slots=True)
class Blocker:
    """One reason why a migration would not work: `subject` is what (fd 7), `code` a stable word for programs.

    `of_destination`: it is about the host that it would go to; another may do.
    """

    code: str
    subject: str
    reason: str
    hint: str | None = None
    of_destination: bool = False

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


class Refused(MigrateError):
    """Refused before anything was touched; every blocker is in `blockers`, once whoever shares it, their hints together
    in `hint`."""

    def __init__(self, blockers: "list[Blocker] | tuple[Blocker, ...]") -> None:
        self.blockers = tuple(dict.fromkeys(blockers))
        hints = dict.fromkeys(blocker.hint for blocker in self.blockers if blocker.hint)
        super().__init__("; ".join(str(blocker) for blocker in self.blockers), hint="; ".join(hints) or None)


class KernelLacks(MigrateError):
    """A kernel feature or a capability is missing: `feature` names it."""

    def __init__(self, feature: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{feature}: {reason}", hint=hint)
        self.feature = feature


class ImageError(MigrateError):
    """An image file is truncated, corrupt or of another version."""

    def __init__(self, path: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path = path
        self.reason = reason


class TraceeError(MigrateError):
    """Task `pid` could not be stopped, read or borrowed."""

    def __init__(self, pid: int, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"pid {pid}: {reason}", hint=hint)
        self.pid = pid
        self.reason = reason


class RemoteSyscallError(TraceeError):
    """Syscall number `op_index` of a program failed inside task `pid` with `errno`; `why` names the object."""

    def __init__(self, pid: int, op_index: int, op_count: int, call: str, errno: int, why: str) -> None:
        name = errno_names.errorcode.get(errno, str(errno))
        super().__init__(pid, f"op {op_index + 1}/{op_count}: {call} = {name}: {why}")
        self.op_index = op_index
        self.errno = errno
        self.why = why


class NotBorrowable(TraceeError):
    """Its code has no instructions by which it can be borrowed safely; a program that has just been started has none
    yet."""


class CollectError(MigrateError):
    """A piece of the target's state cannot be read or carried: `subject` names it (fd 7, vma 7f..., timer 3)."""

    def __init__(self, subject: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{subject}: {reason}", hint=hint)
        self.subject = subject
        self.reason = reason


class RestoreError(MigrateError):
    """A restore failed; what it had made is gone again."""


class ScriptError(MigrateError):
    """An action script of the user failed, could not be started or took too long."""


class PageStreamError(MigrateError):
    """A page frame is malformed, fails its checksum, or the stream ended in the middle."""
