"""What Windows knows of running processes: listing, details, ancestry."""
