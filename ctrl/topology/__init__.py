"""Who must tunnel what to whom: from all second information to the entries of each node. Pure."""
