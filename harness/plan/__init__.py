"""What will be trained, as pure values: workloads, arms, trials, batch plans, rules, schedules, targets."""
