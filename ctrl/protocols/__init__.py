"""IGMP and MLD: codecs, and the router side as state machines. No clock, no socket: bytes and time in,
changes and queries out."""
