"""How long tests wait for what must come."""

PATIENCE = 240.0
"""Seconds after which a wait counts as a hang. A busy machine does not reach it. The limit of pytest for a whole test
(`faulthandler_timeout`) is later, so that the test can say what it waited for."""
