"""Where arms run: in this process or in Ray actors."""
