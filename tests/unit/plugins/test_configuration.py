"""What a plugin is configured with."""

import pytest

from malbox.sdk.manifest import Manifest, ManifestError
from services.plugins.policy.configuration import configuration


def manifest(*options: str) -> Manifest:
    """A plugin with these options, each a text."""
    properties = {name: {"type": "string", "default": "none"} for name in options}
    return Manifest.model_validate(
        {
            "plugin": {"name": "x", "version": "1.0.0", "description": "x", "kind": "host"},
            "applies": {"stages": ["static"]},
            "config": {"type": "object", "properties": properties} if options else {},
        }
    )


@pytest.mark.promise("A2")
def test_the_submissions_password_reaches_who_has_a_use_for_it() -> None:
    """A plugin with the option gets it, unless the plan says another; a plugin without is not disturbed."""
    assert configuration(manifest("password"), {}, "own") == {"password": "own"}
    assert configuration(manifest("password"), {"password": "said"}, "own") == {"password": "said"}
    assert configuration(manifest("password"), {}, None) == {"password": "none"}
    assert configuration(manifest(), {}, "own") == {}
    assert configuration(manifest("other"), {}, "own") == {"other": "none"}


def test_what_does_not_fit_is_refused() -> None:
    """As before."""
    with pytest.raises(ManifestError):
        configuration(manifest("other"), {"nonsense": 1}, "own")
