"""The servers of the lab: an internet of its own for the tests of a sandbox's network."""
