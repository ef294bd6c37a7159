"""Tests of the regions that processes share."""
