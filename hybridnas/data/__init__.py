"""Floor 3: images and labels in memory."""
