"""Whether servers are well: questions that the master asks them, and what follows from the answers."""
