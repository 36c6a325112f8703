"""Published sweeps in any of their formats, as curves for the harness's own fits and report."""
