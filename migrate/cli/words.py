"""Figures as people read them: sizes, rates, times, counts, the downtime's parts. Pure."""

from collections.abc import Sequence

from migrate.events import PhaseSeconds

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_BAR_CELLS = 24


def size(count: float) -> str:
    """Bytes: 640 B, 12.5 MiB."""
    for unit in _UNITS:
        if count < 1023.95 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def rate(bytes_per_s: float) -> str:
    """Bytes per second."""
    return f"{size(bytes_per_s)}/s"


def seconds(value: float) -> str:
    """A time, to three figures: 0.8 ms, 23.4 ms, 1.42 s, 2 min 05 s."""
    if value < 0.0995:
        return f"{value * 1e3:.1f} ms"
    if value < 0.9995:
        return f"{value * 1e3:.0f} ms"
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    return f"{whole // 60} min {whole % 60:02} s"


def count(number: int, noun: str) -> str:
    """1 page, 2 pages, 131,072 pages."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def bar(share: float, cells: int = _BAR_CELLS) -> str:
    """A bar in eighths of a cell; anything above nothing shows."""
    eighths = max(round(share * cells * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def downtime_lines(phases: Sequence[PhaseSeconds]) -> list[str]:
    """One line per part of the downtime with a bar for its size; "restore: …" stands indented: it does not count."""
    longest = max((phase.seconds for phase in phases), default=0.0) or 1.0
    names = [f"  {phase.name.partition(': ')[2]}" if ": " in phase.name else phase.name for phase in phases]
    width = max(map(len, names), default=0)
    return [
        f"{name:<{width}}  {phase.seconds * 1e3:8.1f} ms  {bar(phase.seconds / longest)}".rstrip()
        for name, phase in zip(names, phases, strict=True)
    ]
