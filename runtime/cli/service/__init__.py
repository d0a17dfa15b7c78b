"""attri-run as a service of systemd: the unit that is printed, and what it is told while it runs."""
