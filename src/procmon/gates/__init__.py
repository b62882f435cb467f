"""The gates: sources of held process starts. See `procmon.gates.base.Gate` for what they have in common."""
