"""Faithful against corrected: each known departure of the released code, and whether it changes a verdict."""

from vestige.claims.departures.judging import SCHEMA, departures_table, judge_departures

__all__ = ["SCHEMA", "departures_table", "judge_departures"]
