"""Models, in torch only. They use torch's own batch norm, which the trainer converts to the workload's span."""
