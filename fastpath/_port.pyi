class IoPort:
    index: int
    @property
    def trains(self) -> bool: ...
