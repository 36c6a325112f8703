"""Published sweeps, whatever form they come in, as curves that the harness's own fits and page take."""
