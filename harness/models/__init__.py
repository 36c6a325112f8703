"""Models, torch only. Written with torch's own batch norm; the trainer converts it to the workload's span."""
