"""The real ALFWorld: its games, its planner's library, its grammar; fast, isolated, and with games made on the spot."""
