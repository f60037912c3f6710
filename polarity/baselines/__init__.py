"""Models of minutes: the floors that every result stands beside, and those that `polarity best` adds."""
