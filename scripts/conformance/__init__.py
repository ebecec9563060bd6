"""The MQTT contract as others see it: schemas of what is sent, and judges of what was heard."""
