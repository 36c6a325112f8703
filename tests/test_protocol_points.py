"""An index of the tests of each protocol point in docs/protocol.md, and of each known trap of training codes.

Every test listed uses a public interface (a trial, a sweep, a plan, a report, a command). They are the first places
to look; the modules they are in hold the rest. The page, the index and every citation (P7) must agree.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PAGE = ROOT / "docs" / "protocol.md"
CITING = ("README.md", "Makefile", "pyproject.toml", ".ci")
CITING = (*CITING, "benchmarks", "conf", "docs", "experiments", "harness", "slurm", "tests")
TEXT = {".md", ".py", ".yaml", ".sh", ".sbatch", ".toml", ".jinja", ".js", ".css", ""}
HEADING = re.compile(r"^### P(\d+)\. \S", re.MULTILINE)
CITATION = re.compile(r"(?<![\w.])P([1-9]\d?)(?![\w%])")  # P7, (P16), not P100
# The documents cited by such a number are not in the repository, and a rule is an LR rule.
CITATION_OF_A_RULE = re.compile(r"\brules? \d", re.IGNORECASE)

POINTS = {
    "P1: one gradient, the mean over the global batch, however it is split": {
        "train/test_learner.py": [
            "test_an_update_follows_the_gradient_of_the_mean_over_the_global_batch",
            "test_ranks_follow_the_gradient_of_the_mean_over_the_global_batch",
        ],
        "objectives/test_losses.py": ["test_a_loss_that_depends_on_who_shares_a_micro_batch_must_declare_it"],
        "train/test_doctor.py": ["test_a_mean_of_means_is_found"],
    },
    "P2: one stream of permutations, cut over ranks and micro-batches": {
        "train/test_stream.py": ["test_pieces_of_any_size_make_up_the_same_stream"],
        "train/test_topologies.py": [
            "test_in_float64_every_split_of_the_batch_gives_one_trajectory_over_200_updates_and_one_table",
            "test_in_float32_the_first_update_on_two_ranks_agrees_to_a_millionth",
            "test_augmentation_does_not_depend_on_the_split_of_the_batch",
        ],
        "train/test_sharding.py": [
            "test_a_split_model_follows_one_rank_for_100_updates_also_when_it_is_killed_and_resumed"
        ],
        "train/test_learner.py": ["test_dropout_is_a_function_of_seed_update_and_micro_batch"],
    },
    "P3: batch-norm span is a setting, evaluation statistics belong to the weights evaluated": {
        "train/test_topologies.py": ["test_per_device_and_sync_are_the_spans_they_say"],
        "train/test_batch_norm.py": [
            "test_evaluation_statistics_depend_on_the_weights_alone_not_on_the_batches_that_led_there",
            "test_running_statistics_fake_slowness_at_a_large_batch_and_reestimated_ones_do_not",
        ],
    },
    "P4: a step is one optimizer update, schedules count updates, the last LR is the schedule's last": {
        "train/test_trainer.py": ["test_the_lr_of_a_row_is_that_of_its_last_update_and_the_last_is_the_schedules_last"],
        "train/test_doctor.py": ["test_a_schedule_stepped_by_the_micro_batch_is_found"],
        "plan/test_duration.py": ["test_epochs_and_the_examples_they_are_give_the_same_updates"],
    },
    "P5: no partial batch exists, nothing is dropped, epochs are exact": {
        "train/test_trainer.py": [
            "test_epochs_are_examples_over_the_training_set_exactly_also_where_a_batch_spans_two_permutations"
        ],
        "train/test_stream.py": ["test_ranks_and_micro_batches_share_out_each_global_batch"],
    },
    "P6: evaluation on one grid of examples, unpadded, the test set read once": {
        "train/test_trainer.py": [
            "test_every_batch_size_is_evaluated_after_the_same_examples",
            "test_off_the_grid_an_evaluation_follows_the_first_update_beyond_each_grid_point",
            "test_an_evaluation_is_the_mean_over_every_validation_example_once",
            "test_the_test_set_is_read_once_at_the_confirming_evaluation",
        ],
        "train/test_topologies.py": ["test_four_ranks_evaluate_every_example_once_also_where_some_have_none"],
        "config/test_dry_run.py": ["test_the_evaluation_interval_must_be_a_multiple_of_every_total_batch_size"],
    },
    "P7: all ranks agree before they stop": {
        "train/test_topologies.py": ["test_all_ranks_pause_and_stop_together_whatever_each_of_them_would_do"],
    },
    "P8: three clocks, warm-up on throw-away data and untimed": {
        "train/test_trainer.py": [
            "test_clocks_only_move_forward_and_hold_less_than_everything",
            "test_the_warm_up_is_on_no_clock_and_changes_no_bit_of_the_result",
        ],
        "train/test_topologies.py": ["test_a_slow_checkpoint_of_rank_0_is_no_training_time_of_the_others"],
        "train/test_cuda_graph.py": ["test_restoring_and_branching_move_nothing_that_a_recording_refers_to"],
    },
    "P9: killed anywhere and resumed, a trial ends with the same bits": {
        "train/test_resume.py": [
            "test_a_trial_dropped_at_any_evaluation_and_resumed_ends_with_the_same_bits",
            "test_a_killed_process_is_continued_by_another_with_the_same_bits",
            "test_on_four_ranks_a_resumed_trial_ends_with_the_same_bits_first_or_second_on_its_gang",
        ],
        "train/test_checkpoint.py": ["test_code_hidden_in_a_checkpoint_is_not_run"],
    },
    "P10: a seed is a replicate; weights and order follow it, the split does not": {
        "train/test_trainer.py": [
            "test_the_same_seed_gives_the_same_events_apart_from_times",
            "test_another_seed_means_another_order_and_other_weights_on_the_same_split",
        ],
        "experiments/test_one_factor.py": ["test_spread_between_splits_is_told_apart_from_spread_between_seeds"],
    },
    "P11: divergence is an outcome, detected without a host sync; skipped updates do not move the schedule": {
        "train/test_trainer.py": [
            "test_an_lr_of_a_million_diverges",
            "test_divergence_is_watched_without_reading_the_device_at_every_update",
        ],
        "train/test_precision.py": [
            "test_an_update_skipped_in_fp16_is_counted_and_moves_neither_weights_nor_schedule_nor_average"
        ],
    },
    "P12: what is co-scaled is a named choice, every arm's resolved values are printed before launch": {
        "config/test_dry_run.py": ["test_every_arm_is_printed_with_its_resolved_values"],
        "plan/test_trial.py": ["test_co_scaling_is_resolved_into_the_arm"],
    },
    "P13: the average of the weights has a half-life in examples; raw and averaged are journalled, one decides": {
        "train/test_trainer.py": [
            "test_both_raw_and_averaged_weights_are_journalled_and_differ",
            "test_after_one_update_the_average_is_the_weights",
            "test_the_memory_of_the_average_has_one_length_in_examples_at_every_batch_size",
        ],
    },
    "P14: one definition of the crossing for trainer and analysis": {
        "train/test_trainer.py": [
            "test_a_trial_stops_at_the_evaluation_that_confirms_the_target",
            "test_a_first_touch_that_is_not_confirmed_is_kept_and_does_not_stop_the_trial",
        ],
        "analyse/test_evaluations.py": ["test_a_crossing_read_from_a_journal_is_the_one_the_trainer_stops_by"],
        "report/test_reread.py": ["test_an_easier_target_is_answered_as_if_the_trials_had_been_run_for_it"],
    },
    "P15: misses are data, intervals state their kind": {
        "statistics/test_estimates.py": [
            "test_misses_and_divergence_are_infinity_in_the_median",
            "test_the_range_says_its_true_coverage",
        ],
        "statistics/test_coverage_simulation.py": ["test_conservative_intervals_cover_at_least_what_they_state"],
    },
    "P16: one declared comparison, the rest corrected; no difference needs a margin": {
        "statistics/test_comparisons.py": [
            "test_the_declared_primary_comparison_is_not_corrected_and_the_others_are",
            "test_not_different_needs_the_margin",
        ],
        "experiments/test_one_factor.py": ["test_a_rankings_dependence_on_the_base_lr_is_said"],
        "experiments/test_tuned.py": ["test_no_tuning_seed_reports_and_a_rule_at_the_tuned_lr_shares_its_trials"],
    },
    "P17: fits with profile intervals, critical batch size with its definition": {
        "statistics/test_fits.py": ["test_misses_at_the_largest_batch_are_used", "test_aicc_takes_seven_arms"],
        "statistics/test_critical_batch.py": ["test_the_definitions_differ_by_a_factor_of_four_and_say_so"],
    },
    "P18: published epochs of a budget and epochs to a target are never overlaid unlabelled": {
        "report/test_published_page.py": ["test_published_costs_and_time_budgets_are_laid_over_a_study_apart"],
    },
    "P19: what can be rejected is rejected before Ray starts": {
        "commands/test_bad_input.py": ["test_a_bad_input_ends_in_one_line_that_says_what_to_do"],
        "launch/test_preflight.py": ["test_a_node_that_cannot_read_the_data_is_named_and_without_it_the_sweep_runs"],
    },
    "P20: warm gangs": {
        "train/test_worker.py": [
            "test_a_trial_on_a_warm_gang_has_the_bits_of_one_on_a_fresh_gang",
            "test_memory_stays_flat_over_a_soak_of_trials",
        ],
        "launch/test_kills.py": ["test_two_hundred_trials_on_one_gang_leave_its_memory_flat"],
    },
    "P21: a failed worker ends its gang, the trial is retried from its checkpoint": {
        "launch/test_sweep_ray.py": ["test_a_killed_worker_of_a_gang_costs_a_retry_and_not_the_trial"],
        "launch/test_hung_rank.py": ["test_a_stopped_rank_is_killed_with_its_gang_by_the_ranks_that_wait_for_it"],
    },
    "P22: long trials first": {
        "launch/test_feed.py": ["test_long_trials_go_first"],
        "launch/test_next_in_line.py": ["test_in_a_full_cluster_the_first_in_line_is_next"],
    },
    "P23: the journal is the source of truth, trackers are projections that lose nothing": {
        "record/test_journal.py": ["test_the_rows_left_are_those_of_one_run_without_gap_or_repetition"],
        "record/test_wandb_sink.py": [
            "test_an_ill_server_delays_nobody_and_a_later_upload_recovers_everything",
        ],
    },
    "P24: one Findings object, the same numbers everywhere": {
        "report/test_page.py": ["test_the_numbers_are_the_same_in_every_form"],
    },
    "P25: no secret, host name or path leaves; offline means no request": {
        "record/test_wandb_no_network.py": ["test_offline_tries_no_connection_and_still_keeps_every_run"],
        "record/test_wandb_sink.py": ["test_a_secret_appears_in_no_file_and_no_request"],
        "record/test_wandb_runs.py": ["test_free_text_of_a_configuration_has_no_way_into_a_run"],
        "record/test_wandb_publish.py": ["test_the_files_of_the_artifact_name_no_place_on_this_machine"],
    },
    "P26: Ray with a token and no dashboard; no pickle is run, archives are checked": {
        "launch/test_access.py": [
            "test_only_who_has_the_token_gets_into_the_embedded_cluster",
            "test_an_embedded_cluster_starts_no_dashboard_server",
            "test_no_process_of_ray_and_no_file_of_it_has_a_secret",
        ],
        "train/test_checkpoint.py": ["test_code_hidden_in_a_checkpoint_is_not_run"],
        "datasets/test_cifar.py": ["test_an_archive_with_one_flipped_byte_is_refused"],
    },
    "P27: no verdict contradicts its interval, and the best of several is named with its equals": {
        "statistics/test_edges.py": ["test_no_simulated_case_breaks_an_estimator"],
        "report/test_two_studies.py": ["test_a_copy_cut_at_two_epochs_is_not_established_to_be_slower"],
        "report/test_first_screen.py": [
            "test_arms_that_differ_by_less_than_their_seeds_are_named_and_not_called_slower",
        ],
    },
    "P28: journal and record are two accounts, and a trial on which they differ is damaged": {
        "commands/test_broken_files.py": [
            "test_one_byte_of_the_crossing_row_never_makes_a_miss",
            "test_every_reader_names_a_damaged_file_in_one_line_or_does_without_it",
        ],
        "launch/test_damaged_study.py": ["test_the_same_command_runs_damaged_trials_again_and_nothing_else"],
    },
    "P29: nothing in a study folder is imported, called, followed or run": {
        "commands/test_hostile_study.py": ["test_a_question_of_somebody_elses_is_neither_imported_nor_called"],
        "record/test_links.py": ["test_a_study_with_a_link_out_of_it_is_refused_by_every_command"],
        "report/test_hostile_names.py": ["test_the_page_has_its_own_script_and_no_other"],
    },
    "P30: replicates differ in seed only; counters and total batch sizes from elsewhere are known, not guessed": {
        "record/test_import_replicates.py": ["test_five_models_are_not_five_seeds"],
        "record/test_import_counters.py": [
            "test_hugging_face_runs_are_placed_by_their_own_steps",
            "test_accumulation_belongs_to_the_total_batch_size",
            "test_a_step_that_counts_log_calls_places_nothing",
            "test_rows_that_contradict_each_other_are_refused",
        ],
        "published/test_table_formats.py": [
            "test_a_counter_that_begins_at_zero_is_asked_for",
            "test_updates_and_epochs_that_contradict_each_other_are_refused",
        ],
    },
    "P32: advice labels its numbers": {
        "statistics/test_step_model.py": [
            "test_what_a_number_rests_on_is_said",
            "test_below_half_of_the_smallest_micro_batch_there_is_no_point_only_a_bracket",
        ],
        "statistics/test_advise_backtest.py": ["test_published_rows_are_predicted_within_the_stated_errors"],
        "commands/test_advise.py": [
            "test_a_micro_batch_below_half_of_the_smallest_timed_gets_a_bracket_and_what_to_measure",
        ],
    },
    "P34: seconds carry their hardware": {
        "train/test_clock.py": ["test_the_journal_names_what_its_seconds_were_measured_on"],
        "analyse/test_step_times.py": [
            "test_the_own_clocks_of_trials_on_different_hardware_are_never_combined",
        ],
    },
    "P33: no state is forgotten": {
        "train/test_buffers.py": [
            "test_floating_buffers_are_averaged_like_weights_and_others_copied",
            "test_ranks_evaluate_with_the_same_state",
        ],
        "train/test_rehearsal.py": ["test_a_model_that_no_trial_could_handle_is_rejected"],
        "train/test_model_checks.py": ["test_a_planted_fault_is_named_with_its_cause"],
    },
}

# Being built; docs/protocol.md states what is missing of each. A point that is implemented moves up, with its tests.
NOT_YET = {
    "P31": "a script's numbers are placed by its own progress",
}


# What training codes are known to get wrong, so that batch sizes are compared unfairly.
TRAPS = {
    "a mean of means over micro-batches of unequal counts": {"train/test_doctor.py": ["test_a_mean_of_means_is_found"]},
    "a loss that sums over or depends on a batch, scaled twice by DDP": {
        "objectives/test_losses.py": ["test_a_loss_that_depends_on_who_shares_a_micro_batch_must_declare_it"],
    },
    "a partial batch dropped, padded or leaking into the next epoch": {
        "train/test_stream.py": ["test_every_epoch_of_the_stream_is_a_permutation_of_the_training_set"],
        "train/test_trainer.py": [
            "test_epochs_are_examples_over_the_training_set_exactly_also_where_a_batch_spans_two_permutations"
        ],
    },
    "ranks with inputs of different sizes": {
        "train/test_stream.py": ["test_ranks_and_micro_batches_share_out_each_global_batch"],
    },
    "an evaluation padded to the number of ranks": {
        "train/test_doctor.py": ["test_an_evaluation_that_pads_is_found"],
        "train/test_topologies.py": ["test_four_ranks_evaluate_every_example_once_also_where_some_have_none"],
    },
    "one order for every epoch": {
        "train/test_stream.py": ["test_the_order_follows_the_seed_and_changes_with_the_epoch"],
    },
    "one order for every seed": {
        "train/test_trainer.py": ["test_another_seed_means_another_order_and_other_weights_on_the_same_split"],
    },
    "an order or a dropout mask that depends on the number of devices": {
        "train/test_doctor.py": ["test_an_order_that_depends_on_the_rank_is_found"],
        "train/test_learner.py": ["test_dropout_is_a_function_of_seed_update_and_micro_batch"],
    },
    "batch norm over whatever one device holds": {
        "train/test_doctor.py": ["test_batch_norm_over_what_a_device_holds_is_found"],
        "train/test_batch_norm.py": ["test_a_batch_norm_without_a_declared_span_is_refused"],
    },
    "running statistics that differ between ranks": {
        "train/test_batch_norm.py": ["test_the_running_average_is_the_same_for_every_split_of_the_batch"],
    },
    "a scaled LR scales decoupled weight decay with it": {
        "config/test_dry_run.py": ["test_the_timescale_of_weight_decay_is_printed_where_there_is_any"],
        "plan/test_trial.py": ["test_co_scaling_is_resolved_into_the_arm"],
    },
    "momentum, betas and averages remember updates, not examples": {
        "train/test_averaging.py": ["test_a_memory_halves_after_its_half_life_in_examples_at_every_batch_size"],
        "plan/test_trial.py": ["test_co_scaling_is_resolved_into_the_arm"],
    },
    "a warm-up in updates lasts k times as long": {
        "plan/test_duration.py": ["test_exactly_one_unit_must_be_given"],
    },
    "a scheduler stepped by the micro-batch or the rank": {
        "train/test_doctor.py": [
            "test_a_schedule_stepped_by_the_micro_batch_is_found",
            "test_a_schedule_that_misses_its_declared_end_is_found",
        ],
    },
    "an update that fp16 skips moves the schedule": {
        "train/test_precision.py": [
            "test_an_update_skipped_in_fp16_is_counted_and_moves_neither_weights_nor_schedule_nor_average"
        ],
    },
    "a clipping threshold that takes effect at one batch size only": {
        "train/test_diagnostics.py": ["test_clipping_scales_the_update_to_the_global_norm_and_is_counted"],
    },
    "a clock read while the device is still working": {
        "train/test_clock.py": ["test_the_device_is_waited_for_before_every_reading"],
    },
    "compilation, warm-up or evaluation on the training clock": {
        "train/test_trainer.py": [
            "test_the_warm_up_is_on_no_clock_and_changes_no_bit_of_the_result",
            "test_clocks_only_move_forward_and_hold_less_than_everything",
        ],
    },
    "more evaluations, hence more attempts, for small batches": {
        "train/test_trainer.py": ["test_every_batch_size_is_evaluated_after_the_same_examples"],
    },
    "stopping by the test set": {
        "train/test_trainer.py": ["test_the_test_set_is_read_once_at_the_confirming_evaluation"],
    },
    "diverged runs dropped": {
        "statistics/test_estimates.py": ["test_misses_and_divergence_are_infinity_in_the_median"],
    },
    "a noise scale read from clipped, scaled or averaged gradients": {
        "train/test_noise_measured.py": [
            "test_the_noisy_quadratics_noise_scale_comes_out_within_five_percent_at_frozen_weights",
            "test_one_two_and_four_ranks_give_the_same_estimate",
        ],
    },
    "the same seed, other bits": {
        "train/test_trainer.py": ["test_the_same_seed_gives_the_same_events_apart_from_times"],
    },
    "a total batch size rounded to what can be reached": {
        "config/test_dry_run.py": [
            "test_a_total_batch_size_must_be_reachable_with_the_workers_and_their_micro_batches"
        ],
    },
    "a resume that resets LR, momentum, clock or order": {
        "train/test_doctor.py": ["test_a_checkpoint_that_forgets_the_momentum_is_found"],
        "train/test_resume.py": [
            "test_a_trial_dropped_at_any_evaluation_and_resumed_ends_with_the_same_bits",
            "test_clocks_go_on_from_the_checkpoint",
        ],
    },
}


@cache
def names_in(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def lines() -> Iterator[tuple[str, str]]:
    """(file and line number, text) of everything that may cite a point; figures and data are not read."""
    for place in (ROOT / name for name in CITING):
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file() and path.suffix in TEXT and "__pycache__" not in path.parts:
                for number, line in enumerate(path.read_text().splitlines(), 1):
                    yield f"{path.relative_to(ROOT)}:{number}", line


def number_of(point: str) -> int:
    return int(point.partition(":")[0].removeprefix("P"))


def test_the_page_defines_the_points_1_to_34_in_order():
    assert [int(number) for number in HEADING.findall(PAGE.read_text())] == list(range(1, 35))


def test_every_point_has_tests_or_is_listed_as_not_yet_implemented():
    assert sorted(number_of(point) for point in (*POINTS, *NOT_YET)) == list(range(1, 35))
    assert min(number_of(point) for point in NOT_YET) > 26
    assert all(any(names for names in files.values()) for files in POINTS.values())


def test_the_page_states_what_is_missing_of_exactly_the_points_that_are_not_implemented():
    _, *sections = re.split(r"^### P", PAGE.read_text(), flags=re.MULTILINE)
    unfinished = {f"P{section.partition('.')[0]}" for section in sections if "*Not yet:*" in section}
    assert unfinished == set(NOT_YET)


def test_every_citation_is_of_a_point_that_the_page_defines():
    defined = set(HEADING.findall(PAGE.read_text()))
    citations = [(place, number) for place, line in lines() for number in CITATION.findall(line)]
    assert len({number for _, number in citations}) >= 26  # else nothing was read
    assert not [(place, f"P{number}") for place, number in citations if number not in defined]


def test_nothing_cites_a_rule_by_number():
    assert not [(place, line) for place, line in lines() if CITATION_OF_A_RULE.search(line)]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.partition(":")[0])
def test_every_test_of_the_point_is_where_the_index_says(point):
    for file, names in POINTS[point].items():
        assert set(names) <= names_in(TESTS / file), file


@pytest.mark.parametrize("trap", TRAPS)
def test_every_test_of_the_trap_is_where_the_index_says(trap):
    for file, names in TRAPS[trap].items():
        assert set(names) <= names_in(TESTS / file), file
