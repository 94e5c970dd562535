"""What a plugin sees of Malbox: a context to read from and to emit into, and two ways to say that it could not.

A host plugin is a folder with `plugin.toml` (see `malbox.sdk.manifest`) and `plugin.py`, which has
`run(context: Context) -> None`. It runs in a sandbox: the sample is read-only, there is no network, one scratch
directory is writable, and nothing survives the run but what was emitted. `malbox.sdk.testing` runs one in a test.
"""

from malbox.sdk.context import Context, Event, Input, PluginFailure, PluginSkipped

__all__ = ["Context", "Event", "Input", "PluginFailure", "PluginSkipped"]
