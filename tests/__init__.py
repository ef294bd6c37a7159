"""Tests of Bascule."""
