"""How an image can fail: a code that a report can look up, and a sentence without a path, a name or an intensity."""

from __future__ import annotations

from tasks.errors import DataError


class ImageError(DataError):
    """A file that cannot be used as an image. `code` is a name of `tasks.imaging.rules`.

    The sentence says what is wrong, with sizes and limits. It names neither the file nor whose image it is: who reports it
    locally adds the path, who logs it does not.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code, self.sentence = code, sentence

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        """As processes hand it to each other."""
        return type(self), (self.code, self.sentence)
