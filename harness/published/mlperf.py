"""MLPerf's own arithmetic for a curve of reference points: olympic means, pruning, fastest accepted means."""

from harness.analyse.sections import Table
from harness.published.curves import PublishedCurve
from harness.statistics.rcp import ConvergencePoint, OlympicMean, fastest_accepted_mean, olympic_mean, pruned


def olympic_means(curve: PublishedCurve) -> dict[int, OlympicMean]:
    """{TBS: olympic mean} of the runs, with misses at infinity; nan for fewer than five runs."""
    return {
        arm.total_batch_size: olympic_mean([run.place for run in arm.observations], curve.dropped) for arm in curve.arms
    }


def pruned_set(curve: PublishedCurve) -> list[int]:
    """Total batch sizes of the reference points that judge, by the checker's standard deviation (of all runs)."""
    points = [
        ConvergencePoint(size, mean.mean, mean.untrimmed_sd, mean.n, curve.dropped)
        for size, mean in olympic_means(curve).items()
        if mean.mean == mean.mean
    ]
    return [int(point.total_batch_size) for point in pruned(points, curve.submission_runs)]


def mlperf_table(name: str, curve: PublishedCurve) -> Table:
    """The reference points as applied to a submission, in the curve's unit.

    A floor is the fastest mean that is accepted from a submission: by the text of the rules (standard deviation after
    dropping the extremes) and by the checker's code (of all runs).
    """
    judging = set(pruned_set(curve))
    rows = []
    for size, mean in olympic_means(curve).items():
        floors = [
            fastest_accepted_mean(
                mean.mean,
                sd,
                submission_runs=curve.submission_runs,
                reference_runs=mean.n,
                dropped=curve.dropped,
            )
            for sd in (mean.trimmed_sd, mean.untrimmed_sd)
        ]
        kept = "yes" if size in judging else "no"
        rows.append([size, mean.n, mean.mean, mean.trimmed_sd, mean.untrimmed_sd, *floors, kept])
    columns = [
        "total_batch_size",
        "runs",
        "olympic_mean",
        "sd_trimmed",
        "sd_all",
        "floor_rules_text",
        "floor_checker",
        "judges",
    ]
    return Table(name, columns, rows)
