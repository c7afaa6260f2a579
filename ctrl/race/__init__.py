"""The race of `fastpath bench wire`: the data path against whatever else could make the copies here."""
