"""W&B and TensorBoard: views of the journals, made while a sweep runs or at any time later (P23 and P25).

live    sink (in the driver) -> process (the tracking process) -> project (W&B), tensorboard
later   upload, publish (harness track)          read_runs, import_runs: the other direction, from W&B to a study
online  alerts, public_files (what the artifact holds)      offline  finish_offline (what a busy machine left undone)
both    runs: a trial as a W&B run; with the study's results, all that is ever sent     settings: how W&B is used
"""
