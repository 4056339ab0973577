"""Work that the leader's timers start: due rows, maintenance, and answers to drain queries."""
