"""The version, in a file of its own: whoever needs it needs nothing else of the package."""

VERSION = "0.2.0"
