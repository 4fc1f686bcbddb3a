"""What turns a Flower ClientApp Byzantine."""
