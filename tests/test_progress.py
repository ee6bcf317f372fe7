"""Progress in a log: count, share, rate and remaining time."""

import io
import sys
from types import SimpleNamespace

import pytest

from ct_video_hf import progress


@pytest.mark.parametrize(
    ("done", "total", "rate", "expected"),
    [
        (120, 7279, 1.4, "120 of 7279 studies (2 %), 1.4 a second, 1 h 25 min left"),
        (50, 100, 0.05, "50 of 100 studies (50 %), 3.0 a minute, 17 min left"),
        (99, 100, 2.0, "99 of 100 studies (99 %), 2.0 a second, < 1 min left"),
    ],
)
def test_line(done, total, rate, expected):
    assert progress._line(done, total, rate) == expected


def test_lines_come_where_no_terminal_is(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for _ in progress.study_progress(range(10), 20, done=10):
        now[0] += 10
    lines = sys.stderr.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == "preparing: 13 of 20 studies (65 %), 6.0 a minute, 1 min left"


def test_nothing_is_said_when_not_wanted(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(progress.study_progress(range(5), 5, show=False)) == list(range(5))
    assert sys.stderr.getvalue() == ""
