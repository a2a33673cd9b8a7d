"""How long something took or will take, in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds below a minute, minutes and seconds below an hour, hours and minutes from there on.

    >>> duration(9.6), duration(70), duration(14_876)
    ('10 s', '1 min 10 s', '4 h 07 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
