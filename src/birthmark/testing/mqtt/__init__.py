"""MQTT 3.1.1 on the server's side, as the emulated clouds speak it."""
