"""Where managers keep what they know: one table of keys and values with revisions, in SQLite or in etcd."""
