"""Running processes: list, details, ancestry, tree, tampering."""
