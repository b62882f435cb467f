"""The monitor: fetches held processes from a gate, asks the callbacks, sends the verdicts. See `monitor.Monitor`."""
