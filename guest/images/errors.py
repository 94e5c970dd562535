"""What can go wrong while an image is made. A class's docstring is its default message."""


class ImageError(Exception):
    """the image cannot be built"""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__ or "")


class ImageRefused(ImageError):
    """the image holds something that no guest may have"""


class ImageDamaged(ImageError):
    """the image is not what its manifest says"""


class ToolFailed(ImageError):
    """a tool of the host failed"""
