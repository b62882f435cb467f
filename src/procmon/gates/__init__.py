"""The gates: sources of held process starts. `procmon.gates.base.Gate` is their protocol."""
