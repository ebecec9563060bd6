"""What the box tells over MQTT, and what it is told."""
