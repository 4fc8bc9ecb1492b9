"""Learning from episodes: rows, advantages, token credit, replay, losses, the trainer."""

if __name__ != "agentkit.training":
    raise ImportError("import 'agentkit.training', not 'training'")
