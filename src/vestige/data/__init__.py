"""Where images come from, how they become inputs, and in which order: functions of (seed, epoch, index)."""
