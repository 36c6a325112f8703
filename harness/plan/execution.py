"""How a trial is executed: options that make it faster or safer and change its results by rounding at most."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Options of a trial's updates; none changes more than rounding."""

    compile: bool = False  # training through torch.compile; slow to start, graphs are kept from trial to trial
    channels_last: bool = False  # memory format of images and convolutions; pays off on GPUs in half precision
    cuda_graph: bool = False  # updates recorded once and replayed; pays off on GPUs where updates take few milliseconds
    fused: bool = False  # torch's fused implementation of the optimizer
    gradient_compression: bool = False  # ranks exchange gradients in bf16, half the bytes; needs precision=bf16
    activation_checkpointing: bool = False  # keep only the inputs of a model's blocks, recompute the rest; saves memory
    cudnn_benchmark: bool = False  # cuDNN tries its convolutions for every new shape and keeps the fastest; GPUs only


@dataclass(frozen=True)
class ExecutionOptions(Speed):
    """What a configuration says about how a trial is executed; the trainer adds the files that it watches."""

    evaluation_batch_size: int = 1024  # examples per forward pass of an evaluation
    checkpoint_every_s: float = 60.0  # seconds of a trial between checkpoints
    hang_s: float = 1800.0  # seconds without progress until a worker ends itself and its trial is retried; 0: never
