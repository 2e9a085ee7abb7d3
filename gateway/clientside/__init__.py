"""The parts of the Python client; programs import `gateway.client`."""
