"""The clock jumps by two hours, both ways: while the gateway runs, and while it is down."""

from __future__ import annotations

TWO_HOURS = 7_200.0
