"""Capability numbers and names. Source: linux/capability.h."""

from typing import Final

CAPABILITIES: Final = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip


def capability_mask(*names: str) -> int:
    """Mask of capabilities given as "SYS_PTRACE"."""
    return sum(1 << CAPABILITIES.index(name) for name in names)


def capability_names(mask: int) -> list[str]:
    """CAP_… of every bit set; a number for one that has no name yet."""
    numbers = [number for number in range(mask.bit_length()) if mask >> number & 1]
    return [f"CAP_{CAPABILITIES[number]}" if number < len(CAPABILITIES) else str(number) for number in numbers]
