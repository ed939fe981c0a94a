"""Floor 5: the winner as files."""
