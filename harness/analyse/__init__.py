"""What the numbers say: crossing, estimates, comparisons, fits. Runs without torch and ray."""
