"""One function a command; the command line and `jobs/` call these."""
