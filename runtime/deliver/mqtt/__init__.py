"""Events to an MQTT broker, with discovery for Home Assistant."""
