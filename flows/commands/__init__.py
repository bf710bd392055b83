"""The commands of `aesc`, grouped by what they work on."""
