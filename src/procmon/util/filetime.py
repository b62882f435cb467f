"""FILETIME, the time format of Windows: ticks of 100 ns since 1601, UTC."""

from datetime import UTC, datetime, timedelta

__all__ = ["from_filetime", "to_filetime"]

_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)
_LAST_TICK = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1) * 10 + 9


def from_filetime(ticks: int) -> datetime | None:
    """A FILETIME as an aware datetime; None for 0 and for a time beyond the range of datetime.

    >>> from_filetime(116_444_736_000_000_000).isoformat()
    '1970-01-01T00:00:00+00:00'
    """
    return _EPOCH + timedelta(microseconds=ticks // 10) if 0 < ticks <= _LAST_TICK else None


def to_filetime(moment: datetime | None) -> int:
    """A datetime as a FILETIME; 0 for None. Raises: ValueError for a naive datetime."""
    if moment is None:
        return 0
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone: use datetime.now(UTC)")
    return (moment - _EPOCH) // timedelta(microseconds=1) * 10
