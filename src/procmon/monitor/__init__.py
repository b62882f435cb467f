"""The monitor: takes what a gate holds, asks the callbacks, sends the verdicts. See `monitor.Monitor`."""
