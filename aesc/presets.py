"""The preset that a run uses if none is named. In a file of its own: `aesc --help` must not wait for pydantic."""

DEFAULT_PRESET = "best"
