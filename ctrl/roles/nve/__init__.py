"""The NVE role: which groups it is in, and where the stations of its networks are. Pure: no I/O, no clock."""
