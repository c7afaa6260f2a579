"""What is wrong with a request: the asker's fault, told to it."""

from __future__ import annotations


class Misasked(Exception):
    """A request that is not answered: the HTTP status, and a sentence that says why."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)
