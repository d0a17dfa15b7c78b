"""Sources, classifier and sinks in threads, with bounded queues between."""
