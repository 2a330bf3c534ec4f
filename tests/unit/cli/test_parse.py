from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UsageError
from migrate.cli.options import refuse_later
from migrate.cli.parse import parse_choice, parse_count, parse_duration, parse_pid, parse_rate, parse_size
from migrate.cli.wishes import Pace, Subject, parse_request


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("200ms", 0.2), ("1.5s", 1.5), ("10m", 600), ("10min", 600), ("2h", 7200), ("500us", 0.0005), (" 3 s ", 3)],
)
def test_durations_have_units(text: str, wanted: float) -> None:
    assert parse_duration("--deadline", text) == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["", "5", "0s", "-1s", "1d", "ten", "1s2", "1.s", "٣s", "nan s", "1e3s"])
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"--deadline: .* is not a time") as caught:
        parse_duration("--deadline", text)
    assert "200ms" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("1gbit", 125_000_000), ("1Gbit/s", 125_000_000), ("100mbit", 12_500_000), ("8bit", 1), ("100MB", 100_000_000),
        ("100MiB/s", 104_857_600), ("1.5kB", 1500), ("1gbps", None), ("100mb", None), ("1Gb", None), ("100", None),
        ("1bit", None), ("0MB", None), ("-1MB", None),
    ],
)  # fmt: skip
def test_rates_are_bits_or_bytes_but_never_ambiguous(text: str, bytes_per_s: int | None) -> None:
    if bytes_per_s is None:
        with pytest.raises(UsageError, match=r"--bandwidth: .* is not a rate"):
            parse_rate("--bandwidth", text)
    else:
        assert parse_rate("--bandwidth", text) == bytes_per_s


@pytest.mark.parametrize(("text", "wanted"), [("0", 0), ("512K", 524_288), ("1M", 1 << 20), ("2GiB", 2 << 30)])
def test_sizes_are_powers_of_1024(text: str, wanted: int) -> None:
    assert parse_size("--ghost-limit", text) == wanted


@given(st.text(max_size=12))
def test_any_text_is_a_number_or_a_usage_error(text: str) -> None:
    for parse in (parse_duration, parse_rate, parse_size):
        try:
            assert parse("--option", text) >= 0
        except UsageError as error:
            assert error.message.startswith("--option: ")


@pytest.mark.parametrize("text", ["0", "-1", "", "1x", "４", "99999999999"])
def test_what_is_no_pid_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"PID: .* is not a process id"):
        parse_pid(text)


def test_counts_and_choices_name_what_is_allowed() -> None:
    assert parse_count("--streams", "4", 8) == 4
    with pytest.raises(UsageError, match="--streams: '9' is not a number from 1 to 8"):
        parse_count("--streams", "9", 8)
    with pytest.raises(UsageError) as caught:
        parse_choice("--pid", "new", ("keep", "namespace"))
    assert caught.value.hint == "write keep or namespace"


def test_options_of_later_versions_are_refused_by_name() -> None:
    refuse_later(prev_images_dir=None, link_remap=False)
    with pytest.raises(UsageError, match="--prev-images-dir, --link-remap: not carried yet"):
        refuse_later(prev_images_dir="../1", link_remap=True, external=None)


def test_the_whole_command_line_becomes_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subject = Subject("4711", "ana@host-b:2222", [Path("key")], Path("known"), "sudo -n migrate", "close")
    request = parse_request(subject, Pace("200ms", "10m", "1gbit", "1", "zstd", "uffd-wp"))
    assert (request.pid, request.destination, request.tcp, request.pid_mode) == (
        4711,
        "ana@host-b:2222",
        "close",
        "keep",
    )
    assert (request.max_downtime_s, request.deadline_s, request.bandwidth_bytes_per_s) == (0.2, 600, 125_000_000)
    assert (request.streams, request.compress, request.track) == (1, "zstd", "uffd-wp")
    assert str(tmp_path / "key") in dict(request.route).values()
    assert str(tmp_path / "known") in dict(request.route).values()


@pytest.mark.parametrize(
    "subject",
    [
        Subject("4711", "host-b", tcp="established"), Subject("4711", "host-b", remote_command="sudo 'x"),
        Subject("4711", "host-b", remote_command=" "), Subject("4711", "-oProxyCommand=x"),
        Subject("4711", "host-b", shared=[Path("relative")]),
    ],
)  # fmt: skip
def test_a_wrong_word_is_a_usage_error(subject: Subject) -> None:
    with pytest.raises(UsageError):
        parse_request(subject, Pace())
