"""Policies: rules in TOML that decide about process starts. See `policy.Policy`."""
