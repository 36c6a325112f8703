"""The trainer: one loop for any number of ranks, without ray, hydra or wandb."""
