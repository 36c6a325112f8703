"""Whatever a person gets wrong is told in one line on stderr with what is allowed; exit code 2, nothing has started."""

import json
import os
import shlex
import stat
from pathlib import Path

import pytest

SMALL = ["cluster=inline", "tracking=disabled", "seeds=[0]", "question.total_batch_sizes=[512]"]

NAMES = {
    "+experiment=tbs_swep": "unknown experiment 'tbs_swep': did you mean 'tbs_sweep'?",
    "model=bn_cn": "unknown model 'bn_cn': did you mean 'bn_cnn'?",
    "dataset=digit": "unknown dataset 'digit': did you mean 'digits'?",
    "optimizer=adamm": "unknown optimizer 'adamm': did you mean 'adam'?",
    "schedule=cosin": "unknown schedule 'cosin': did you mean 'cosine'?",
    "workload=digits_bn_cn": "unknown workload 'digits_bn_cn': did you mean 'digits_bn_cnn'?",
    "cluster=loca": "unknown cluster 'loca': did you mean 'local'?",
    "lr_scaling=linaer": "unknown lr_scaling 'linaer': did you mean 'linear'?",
    "lr_scaling.rules=[foo]": "unknown lr_scaling rule 'foo': choose one of none, sqrt, linear, adascale, power",
    "optimiser=adam": "unknown key 'optimiser': did you mean 'optimizer'?",
}


@pytest.mark.parametrize("argument", NAMES)
def test_an_unknown_name_is_told_with_the_nearest_valid_one(harness, argument):
    chosen = [] if "experiment" in argument else ["+experiment=tbs_sweep"]
    assert NAMES[argument] in harness(*chosen, argument).refusal()


def test_an_experiment_must_be_named_and_with_a_plus(harness):
    assert "Add +experiment=NAME with one of: base_lr, " in harness("seeds=[0]").refusal()
    assert harness("experiment=tbs_sweep").refusal() == "write +experiment=NAME, with the plus sign"
    assert "experiment is given twice" in harness("+experiment=tbs_sweep", "+experiment=base_lr").refusal()
    assert "a name, not null" in harness("+experiment=null").refusal()


LR_IS_GIVEN_ELSEWHERE = "optimizer.lr is set by the LR rule: give workload.base_lr at workload.base_batch_size instead"
KEYS = {
    "workload.bse_lr=1": "unknown key 'workload.bse_lr': did you mean 'workload.base_lr'?",
    "+workload.bse_lr=1": "unknown key 'workload.bse_lr': did you mean 'workload.base_lr'?",
    "++workload.target.valu=1": "unknown key 'workload.target.valu': did you mean 'workload.target.value'?",
    "clustr.cpus=2": "unknown key 'clustr': did you mean 'cluster'?",
    "seed=[0]": "unknown key 'seed': did you mean 'seeds'?",
    "+foo=1": "unknown key 'foo': choose one of ",
    "schedule.final=0.1": "unknown key 'schedule.final': choose one of _target_, warmup, warmup_shape, warmup_start",
    "optimizer.momentun=0.8": "unknown key 'optimizer.momentun': did you mean 'optimizer.momentum'?",
    "optimizer.lr=0.1": LR_IS_GIVEN_ELSEWHERE,
    "+optimizer.lr=0.1": LR_IS_GIVEN_ELSEWHERE,
    "workload.budget={epoch: 3}": "unknown unit 'epoch' of workload.budget: write workload.budget={UNIT: number}",
    "schedule.warmup={step: 3}": "unknown unit 'step' of schedule.warmup",
    "schedule.warmup=5": "schedule.warmup needs a unit, like {epochs: 5}, not 5",
    "+question.total_batch_size=[16]": "did you mean 'question.total_batch_sizes'?",
    "hydra.run.dir=x": "hydra.run.dir has no effect here",
    "~seeds": "seeds must be given",
    "~cluster": "cluster.launcher must be given",
}


@pytest.mark.parametrize("argument", KEYS)
def test_a_misspelt_key_is_told_with_the_nearest_valid_one_also_behind_a_plus(sweep, argument):
    assert KEYS[argument] in sweep(argument).refusal()


def test_the_nearest_key_is_looked_for_in_the_files_that_were_chosen(sweep):
    refusal = sweep("schedule=cosine", "schedule.fina=0.1").refusal()
    assert refusal == "unknown key 'schedule.fina': did you mean 'schedule.final'?"


TYPES = {
    "workload.base_lr=abc": "workload.base_lr=abc: Value 'abc' of type 'str' could not be converted to Float",
    "workload.base_lr=null": "workload.base_lr=null: field 'workload.base_lr' is not Optional",
    "workload.budget=3": "workload.budget=3: ",
    "dry_run=maybe": "dry_run=maybe: ",
    "seeds=0": "seeds=0: ",
    "seeds=[a]": "seeds=[a]: Value 'a' of type 'str' could not be converted to Integer",
    "seeds=[1.5]": "seeds=[1.5]: ",
    "seeds=[0,null]": "seeds=[0,null]: ",
    "question.total_batch_sizes=[a]": "question.total_batch_sizes must be a list of integers, not ['a']",
    "question.total_batch_sizes=16": "question.total_batch_sizes must be a list of integers, not 16",
    "question.total_batch_sizes=[16.5]": "question.total_batch_sizes must be a list of integers, not [16.5]",
    "workload.base_lr=0.1,0.2": "write a list as workload.base_lr=[1,2]",
    "seeds=range(5)": "write a list as seeds=[1,2]",
    "seeds=[0": "cannot read 'seeds=[0': write key=value",
    "seeds": "cannot read 'seeds': write key=value",
    "model=null": "a config group needs a name, not null",
}


@pytest.mark.parametrize("argument", TYPES)
def test_a_value_of_the_wrong_type_is_told_with_its_key(harness, argument):
    assert TYPES[argument] in harness("+experiment=tbs_sweep", argument).refusal()


VALUES = {
    "seeds=[]": "seeds is empty: give at least one seed, e.g. seeds=[0,1,2,3,4]",
    "seeds=[0,0]": "seeds must differ, not [0, 0]",
    "seeds=[-1]": "seeds must be integers >= 0, not -1",
    "lr_scaling.rules=[]": "lr_scaling.rules is empty",
    "lr_scaling.rules=[sqrt,sqrt]": "lr_scaling.rules must differ",
    "lr_scaling.rules=[power]": "needs lr_scaling.power",
    "workload.base_lr=-0.1": "workload.base_lr must be a number > 0, not -0.1",
    "workload.base_lr=nan": "workload.base_lr must be a number > 0, not nan",
    "workload.target.mode=min": "target metric accuracy needs mode=max, not mode=min",
    "workload.target.mode=up": "target mode must be min or max, not 'up'",
    "workload.target.metric=acuracy": "is not measured with loss cross_entropy: choose one of loss, accuracy",
    "workload.loss=mse": "unknown loss 'mse'",
    "'workload.budget={epochs: 0}'": "workload.budget must be > 0, not",
    "'workload.budget={epochs: -1}'": "a duration must be a number >= 0, not -1 epochs",
    "workload.evaluate_every_examples=0": "workload.evaluate_every_examples must be >= 1, not 0",
    "schedule=plateau schedule.mode=min": "use schedule.mode=max",
    "schedule=cosine schedule.final=7": "schedule.final must be",
    "lr_scaling.co_scaling.momentum=foo": "choose one of fixed, half_life",
    "cluster.workers_per_trial=0": "cluster.workers_per_trial must be >= 1, not 0",
    "cluster.cpus=0": "cluster.cpus must be >= 1, not 0",
    "cluster.per_device_batch_size=0": "cluster.per_device_batch_size must be >= 1, not 0",
    "cluster.per_device_batch_size=most": "must be a number of examples, null or auto, not 'most'",
    "cluster.max_failures=-1": "cluster.max_failures must be >= 0, not -1",
    "cluster.timing_min_steps=0": "cluster.timing_min_steps must be >= 1, not 0",
    "cluster.timing_max_s=0.5": "cluster.timing_max_s=0.5 must be >= cluster.timing_min_s=1",
    "cluster.checkpoint_every_s=nan": "cluster.checkpoint_every_s must be >= 0, not nan",
    "cluster.gpus_per_worker=0.5 cluster.workers_per_trial=2": "two ranks of one trial cannot share a GPU",
    "cluster.gpus_per_worker=0.4": "use 1/n for n trials on a GPU, e.g. 0.5 for 2",
    "cluster.workers_per_trial=null": "needs cluster.per_device_batch_size",
    "cluster.max_workers_per_trial=4": "remove it where cluster.workers_per_trial is a number",
    "cluster.launcher=slurm": "cluster.launcher must be ray or inline, not 'slurm'",
    "cluster.address=auto": "cluster.address must be 'local' or host:port, not 'auto'",
    "cluster.precision=float17": "precision must be one of ",
    "study=a/b": "study must be a plain folder name, not 'a/b'",
    "study=": "study must be a plain folder name, not ''",
}


@pytest.mark.parametrize("arguments", VALUES)
def test_a_value_that_cannot_be_meant_is_told_with_what_can(sweep, arguments):
    assert VALUES[arguments] in sweep(*shlex.split(arguments)).refusal()


BATCHES = {
    (
        24,
    ): "evaluate_every_examples=512 is not a multiple of total batch size 24: the nearest valid values are 504 and 528",
    (
        8,
    ): "total batch size 8 cannot be split over 1 worker in batch-norm groups of 16: the nearest valid values are 16 ",
    (2048, 4096): "total batch size 2048 exceeds the training set of 1024 examples: use at most 1024",
    (0,): "total batch sizes must be integers >= 1, not 0",
    (): "question.total_batch_sizes is empty",
}


@pytest.mark.parametrize("sizes", BATCHES)
def test_an_invalid_total_batch_size_is_rejected_with_the_nearest_valid_ones(sweep, sizes):
    assert BATCHES[sizes] in sweep(f"question.total_batch_sizes={list(sizes)}").refusal()


def test_a_total_batch_size_must_be_reachable_with_the_workers_and_their_micro_batches(sweep):
    refusal = sweep("cluster.workers_per_trial=2", "question.total_batch_sizes=[16,64]").refusal()
    assert (
        "16 cannot be split over 2 workers in batch-norm groups of 16: the nearest valid values are 32 and 64"
        in refusal
    )
    refusal = sweep("cluster.per_device_batch_size=8").refusal()
    assert "per_device_batch_size 8 is below the batch-norm span of 16 examples: use a multiple of 16" in refusal


def test_the_evaluation_interval_must_be_a_multiple_of_every_total_batch_size(sweep):
    refusal = sweep("workload.evaluate_every_examples=500").refusal()
    assert "the nearest valid values are 512 and 1024" in refusal


def test_more_workers_than_the_machine_has_are_refused_with_what_it_has(sweep):
    wanted = ["cluster.workers_per_trial=4", "cluster.cpus=2", "question.total_batch_sizes=[64]"]
    refusal = sweep(*wanted).refusal()
    assert "needs 4 workers" in refusal
    assert "the cluster has 2 CPUs" in refusal
    assert "at most 2 workers fit" in refusal


def test_a_slurm_configuration_outside_a_job_is_refused_and_not_run_on_this_machine(harness, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    refusal = harness("+experiment=tbs_sweep", "cluster=slurm").refusal()
    assert "submit the same arguments with `harness submit`" in refusal


@pytest.mark.parametrize("choice", ["model=mlp", "dataset=stdlib_text", "dataset=cifar10 model=resnet56"])
def test_a_dataset_and_a_model_without_a_workload_of_their_own_are_refused(sweep, choice):
    refusal = sweep(*choice.split()).refusal()
    assert "no workload for dataset " in refusal
    assert "known pairs are cifar10_resnet20, digits_bn_cnn, " in refusal
    assert ".yaml in a --config-dir" in refusal


OBJECTS = {
    "model._target_=harness.models.bn_cnn.BnCn": "did you mean 'BnCnn'?",
    "model._target_=no_such_package.Model": "no module named 'no_such_package' can be imported",
    "model._target_=BnCnn": "_target_ must be a dotted path like package.module.Class, not 'BnCnn'",
    "+model.width=3": "harness.models.bn_cnn.BnCnn has no argument 'width': choose one of in_channels, classes",
    "model.classes=many": "model harness.models.bn_cnn.BnCnn cannot be trained with torch.optim.SGD on ",
    "model.classes=5": "cannot be trained with torch.optim.SGD on harness.datasets.digits.Digits: IndexError: Target ",
    "model.in_channels=3": "expected input[16, 1, 8, 8] to have 3 channels, but got 1 channels instead",
    "optimizer.momentum=-1": "ValueError: Invalid momentum value: -1",
    "+optimizer.momentun=0.9": "torch.optim.SGD has no argument 'momentun': did you mean 'momentum'?",
    "parameter_groups.frozen=[hed.*]": "frozen pattern 'hed.*' matches no parameter of the model: the nearest is 'head",
    "dataset.train=5000": "dataset harness.datasets.digits.Digits cannot be loaded: ValueError: ",
    "dataset.train=-5": "dataset harness.datasets.digits.Digits cannot be loaded: ValueError: ",
    "dataset.test=0": "dataset harness.datasets.digits.Digits has no test examples",
    "question._target_=experiments.nope.Nope": "there is no experiment file nope.py: choose one of ablation, base_lr, ",
    "question._target_=experiments.tbs_sweep.Nope": "experiments.tbs_sweep has no 'Nope'",
    "question._target_=no_such_package.Nope": "cannot be imported: No module named 'no_such_package'",
    "question._target_=Nope": "question._target_ must be a dotted path like package.module.Class, not 'Nope'",
}


@pytest.mark.parametrize("argument", OBJECTS)
def test_a_class_that_cannot_be_used_as_it_is_asked_for_is_refused_before_any_trial(sweep, argument):
    assert OBJECTS[argument] in sweep(argument).refusal()


@pytest.fixture
def finished(harness):
    """A finished study in the current folder."""
    assert harness("+experiment=tbs_sweep", *SMALL, "workload.budget={epochs: 1}", "lr_scaling=linear").code == 0
    return Path("outputs/tbs_sweep/default")


def test_a_study_of_another_experiment_or_code_or_data_is_left_alone(harness, finished):
    again = ["+experiment=tbs_sweep", *SMALL, "lr_scaling=linear"]
    description = json.loads((finished / "study.json").read_text())
    others = {
        "experiment": "belongs to experiment 'other', not 'tbs_sweep': choose another study name",
        "code_fingerprint": "was made by other code (other, now ",
        "data_fingerprint": "was made by other data (other, now ",
    }
    for key, words in others.items():
        (finished / "study.json").write_text(json.dumps({**description, key: "other"}))
        before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
        said = harness(*again)
        assert said.code == 2
        assert said.err.startswith("error: study default ")
        assert said.err.count("\n") == 1
        assert words in said.err
        assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_written_is_refused_by_name(harness, tmp_path):
    (tmp_path / "file").write_text("")
    refusal = harness("+experiment=tbs_sweep", *SMALL, "output_dir=file/studies").refusal()
    assert f"study folder {tmp_path}/file/studies/tbs_sweep/default cannot be written" in refusal
    assert "choose another output_dir" in refusal
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
        refusal = harness("+experiment=tbs_sweep", *SMALL, "output_dir=locked").refusal()
        assert "cannot be written (Permission denied)" in refusal


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lr_scaling.rules=[none,adascale]"], "give it its own study, lr_scaling=adascale study=NAME"),
        (["lr_scaling=adascale", "optimizer=adamw"], "AdaScale's gain is derived for SGD, not for torch.optim.AdamW"),
        (
            ["lr_scaling=adascale", "workload.base_batch_size=48", "question.total_batch_sizes=[64]"],
            "the nearest valid values are 1 and 2",
        ),
        (["lr_scaling=adascale"], "use cluster.per_device_batch_size=16, not "),
    ],
)
def test_adascale_is_refused_where_it_means_nothing(sweep, arguments, said):
    assert said in sweep(*arguments).refusal()
