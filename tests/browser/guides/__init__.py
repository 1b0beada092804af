"""README, tutorial and guides, typed as printed, in Chromium."""
