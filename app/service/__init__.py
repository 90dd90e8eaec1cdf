"""What we do, whoever asks."""
