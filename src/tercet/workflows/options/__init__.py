"""What may follow `tercet VERB`, without the weight of the work itself."""
