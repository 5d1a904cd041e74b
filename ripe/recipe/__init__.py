"""What a training run is told: its settings, and which of them move while it goes on."""
