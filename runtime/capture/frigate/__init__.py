"""Objects that Frigate detects, as a source: its events by MQTT, a snapshot of each object by HTTP."""
