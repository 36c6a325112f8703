"""Where a published target costs more data: without a curve first, by the overhead and reference asked for."""

import math
from pathlib import Path

import pytest

from harness.published.findings import published_findings
from harness.published.overhead import Overhead
from harness.published.read import Publication, read


def findings(source: str | Path, share: float | None = None, reference: int | None = None):
    return published_findings([read(source)], Overhead(share, reference))


def line(found, label: str) -> str:
    return next(text for text in [*found.verdict, *found.not_established] if text.startswith(f"{label}: "))


def rise_rows(found, section: int = 0) -> list[list]:
    return next(table for table in found.sections[section].tables if table.name.endswith("_rise")).rows


def test_the_statement_without_a_curve_comes_first_and_e_min_over_s_min_second():
    found = findings("mlperf_bert")
    assert found.verdict == [
        "MLPerf bert: costs twice the data of TBS 448, the cheapest, from about TBS 13,711 on (95 % 12,288–16,384); "
        "1.2 times from about TBS 4,794 on (95 % 448–6,144). E_min / S_min under MLPerf bert: 12,724 (10,073 to "
        "16,477, profile likelihood 95 %). The hyperbola misses arms by more than their seeds explain (7.3 % left "
        "out), probably because of tuning; its intervals include that lack of fit."
    ]
    (section,) = found.sections
    assert section.sentences[1].startswith("Costs twice the data of TBS 448, the cheapest, from about TBS 13,711 on")
    assert section.sentences[1].endswith(", without a fitted curve.")
    assert section.sentences[3].startswith("Critical batch size 12,724 (10,073 to 16,477, profile likelihood 95 %): "
                                           "E_min / S_min under MLPerf bert of the hyperbola")  # fmt: skip


def test_berts_second_reading_is_not_empty():
    """As means 12,774, as 20 runs an arm "nothing is established"."""
    means = line(findings("mlperf_means"), "bert")
    assert "E_min / S_min under bert: 12,774 (10,139 to 16,544" in means
    assert "from about TBS 13,750 on (between neighbours 13,056–16,384)" in means
    assert "E_min / S_min under MLPerf bert: 12,724 (10,073 to 16,477" in findings("mlperf_bert").verdict[0]


def test_twenty_percent_over_a_stated_batch_can_be_asked_for():
    """By hand, on olympic means: the geometric line between TBS 8,192 and 13,056 comes to 1.2 E(3,264)."""
    found = findings("mlperf_means", 0.2, 3264)
    (row,) = rise_rows(found)
    assert row[:2] == [1.2, 3264]
    share = math.log(1.2 * 35.1538 / 41.875) / math.log(45.5 / 41.875)
    assert row[2] == pytest.approx(8192 * (13056 / 8192) ** share, rel=1e-3)
    assert row[3:] == [8192, 13056, "arms next to it, no replicates", "between"]
    assert line(found, "resnet").startswith("resnet: costs 1.2 times the data of TBS 3,264 from about TBS 8,")
    on_curve = next(text for text in found.sections[0].sentences if "E(B) = 1.2 E(3264) on the hyperbola" in text)
    # (1 + p) B_ref + p B_crit
    assert float(on_curve.split()[3].replace(",", "")) == pytest.approx(1.2 * 3264 + 0.2 * 46_909, abs=2)


def test_a_reference_between_two_arms_is_read_between_them():
    (row,) = rise_rows(findings("mlperf_resnet", 0.5, 2000))
    assert row[1] == 2000
    assert (row[3], row[4], row[5]) == (13056, 32768, "t below, Dunnett above")


def test_a_curve_without_the_reference_says_so_and_keeps_its_second_reading():
    found = findings("mlperf_means", 0.2, 1536)
    assert line(found, "bert").startswith("bert: costs 1.2 times the data of TBS 1,536 from about TBS ")
    assert line(found, "llama31_8b") == (
        "llama31_8b: the reference TBS must lie within the arms that reached the target, 16 to 128, not 1,536. "
        "E_min / S_min under llama31_8b: 84 (64 to 111, profile likelihood 95 %). A hyperbola describes the sweep "
        "(left-out error 4.9 %)."
    )


def test_two_total_batch_sizes_have_a_bracket_though_no_curve(tmp_path):
    path = tmp_path / "two.csv"
    path.write_text("tbs,epochs_to_target\n16,4\n256,12\n")
    found = findings(path)
    assert found.verdict == [
        "two: costs twice the data of TBS 16, the cheapest, from about TBS 92 on (between neighbours 16–256); "
        "1.2 times from about TBS 25 on (between neighbours 16–256). 2 TBS reached the target, too few for a curve."
    ]


def test_a_target_that_never_costs_twice_is_nowhere_and_a_miss_only_a_bound(tmp_path):
    path = tmp_path / "flat.csv"
    path.write_text("tbs,seed,epochs_to_target,outcome\n" + "".join(
        f"{tbs},{seed},{4 + 0.01 * seed},reached\n" for tbs in (16, 64, 256) for seed in range(3)
    ))  # fmt: skip
    assert "costs twice the data of TBS 16, the cheapest, nowhere up to TBS 256" in line(findings(path), "flat")
    with path.open("a") as file:
        file.write("".join(f"1024,{seed},40,missed\n" for seed in range(3)))
    assert line(findings(path), "flat").startswith(
        "flat: costs twice the data of TBS 16, the cheapest, from about TBS 389 on (95 % 256–1,024); 1.2 times "
        "from about TBS 286 on (95 % 256–1,024). No rise of E with TBS is established by the trend test (p = 0.058), "
        "which does not say that there is none."
    )


def test_seconds_have_no_critical_batch_size(tmp_path):
    path = tmp_path / "clock.csv"
    path.write_text("tbs,seconds_to_target\n16,400\n64,200\n256,150\n1024,900\n")
    found = findings(path)
    assert found.not_established == ["clock: seconds depend on the machine, so there is no critical batch size"]
    assert not found.verdict[1:]
    assert [table.name for table in found.sections[0].tables] == ["clock_costs"]


def test_a_curve_of_another_shape_has_no_e_min_but_its_bracket():
    text = line(findings("mlperf_means"), "llama2_70b_lora")
    assert text.startswith(
        "llama2_70b_lora: costs twice the data of TBS 8, the cheapest, from about TBS 36 on (between"
    )
    assert "E_min" not in text
    curve = next(curve for curve in read("mlperf_means").curves if curve.label == "llama2_70b_lora")
    (section,) = published_findings([Publication("lora", (curve,))]).sections
    assert any("on the power law" in sentence for sentence in section.sentences)
    assert any("No critical batch size E_min / S_min under llama2_70b_lora" in text for text in section.sentences)


@pytest.mark.parametrize("name", ["mlperf_means", "mlperf_resnet", "mlperf_bert", "mlperf_llama31_8b"])
def test_no_line_describes_a_sweep_and_gives_a_large_left_out_error(name):
    found = findings(name)
    for text in [*found.verdict, *found.not_established]:
        if "describes the sweep" in text:
            assert float(text.split("left-out error ")[1].split()[0]) <= 15


def test_every_published_curve_of_means_has_its_bracket():
    for section in findings("mlperf_means").sections[:19]:
        (table,) = [table for table in section.tables if table.name.endswith("_rise")]
        assert all(row[5] == "arms next to it, no replicates" for row in table.rows)
        assert all(row[3] is not None or row[4] is not None for row in table.rows)
