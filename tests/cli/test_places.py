"""Places as a user writes them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlog.cli.places import parse_place
from rlog.client import At
from rlog.errors import ConfigurationError
from rlog.moments import timestamp_of

SLOWLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other tests run too
NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("-1h", timedelta(hours=1)),
        ("-1h30m", timedelta(minutes=90)),
        ("-250ms", timedelta(milliseconds=250)),
        ("-2w1d", timedelta(days=15)),
        ("-0s", timedelta()),
    ],
)
def test_how_long_ago(text: str, before: timedelta) -> None:
    assert parse_place(text, option="--from", now=NOW) == At(timestamp_of(NOW - before))


def test_ends_offsets_and_moments() -> None:
    def place(text: str) -> object:
        return parse_place(text, option="--from", now=NOW)

    assert (place("earliest"), place("latest"), place("0"), place("4711")) == ("earliest", "latest", 0, 4711)
    assert place("2026-01-31T12:00:00Z") == place("2026-01-31T13:00:00+01:00") == At(timestamp_of(NOW))
    assert place("2026-01-31") == At(timestamp_of(datetime(2026, 1, 31).astimezone()))
    assert place("-99999d") == At(0)


@SLOWLY
@given(st.text(max_size=12) | st.from_regex(r"-?[0-9]{1,25}[a-z]{0,2}", fullmatch=True))
def test_anything_else_is_refused_with_the_option_and_the_forms(text: str) -> None:
    try:
        place: object = parse_place(text, option="--until", now=NOW)
    except ConfigurationError as error:
        place = str(error)
    if isinstance(place, str) and place not in ("earliest", "latest"):
        assert "--until" in place
        assert "-1h" in place
    else:
        assert isinstance(place, str | int | At)
