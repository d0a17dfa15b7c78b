"""Where results go: console, files, MQTT, webhooks, metrics."""
