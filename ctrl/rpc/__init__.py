"""Between nodes and managers: the messages of a session, and what carries them (`fabric.proto`)."""
