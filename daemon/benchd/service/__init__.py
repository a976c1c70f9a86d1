"""Run the daemon's process: start, reload, stop, threads, systemd."""
