"""What is said of an image that could not be seen."""

from unittest.mock import AsyncMock

import pytest

from services.machines.errors import HypervisorRefused, HypervisorUnavailable
from services.machines.reconcile.images import Images
from tests.unit.machines.fleet import SPEC


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (HypervisorRefused("there is no built image linux"), "there is no built image linux; build the image, or"),
        (HypervisorUnavailable("no answer within 5 s"), "image linux: no answer within 5 s"),
    ],
)
async def test_whoever_is_to_build_an_image_is_told_only_where_there_is_none(error: Exception, said: str) -> None:
    """A host that does not answer says nothing of its images."""
    images = Images(AsyncMock(image_identity=AsyncMock(side_effect=error)))
    assert await images.look([SPEC]) == {}
    assert images.fault.startswith(said)
    assert ("build" in images.fault) == isinstance(error, HypervisorRefused)
