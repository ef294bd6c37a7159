"""The compiled engine of one worker."""
