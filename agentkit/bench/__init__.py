"""The benchmark of the experience memory: one file a table, each with its bars; run by `agentkit memory bench`."""
