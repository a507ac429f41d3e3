"""Where requests come from: trace formats, validation sets, the plan."""
