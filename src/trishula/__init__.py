"""A durable, signed, real-time message mesh for the agents of a few machines."""

__version__ = "2.0.0"
