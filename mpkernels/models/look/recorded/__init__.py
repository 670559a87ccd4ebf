"""What is recorded of a network, and what follows from that."""
