"""Floor 1: the values that flow between the rooms: contracts, configuration, history, predictions."""
