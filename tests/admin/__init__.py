"""Tests of what the admin socket answers."""
