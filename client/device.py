"""Where a site's models are computed and how exactly: on processors in float32, or on an accelerator where there is one.

An accelerator runs the forward and backward passes and nothing else. Outputs and gradients come back as float32 before anything
is clipped, scored or summed, so that bound, grid and noise are the same code on the same processor as without one.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from client.errors import ConfigError

if TYPE_CHECKING:  # torch is for those who compute: settings are read without it
    from torch import Tensor, nn

AUTO, CPU, CUDA = "auto", "cpu", "cuda"
FP32, BF16 = "fp32", "bf16"
DEVICES: Final = (AUTO, CPU, CUDA)
PRECISIONS: Final = (AUTO, FP32, BF16)
LEAST_CAPABILITY: Final = (7, 5)  # the oldest that torch 2.13 is built for
TOLERANCE: Final = {(CPU, FP32): 1e-5, (CUDA, FP32): 1e-3}  # of two ways to the same gradient, relative to it
TOLERANCE_BF16: Final = 0.1  # 8 bits of each value, through tens of layers: enough to see a wrong rule
NO_ROOM: Final = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")  # as torch words what is no class of its own


@dataclass(frozen=True)
class Device:
    """Where one model is computed. `precision` is that of the passes alone; weights are float32 everywhere.

    fp16 is no choice: it would need its loss scaled, and a scale has no place before a clip.
    """

    name: str = CPU  # as torch calls it
    precision: str = FP32
    channels_last: bool = False

    @property
    def tolerance(self) -> float:
        """By how much two ways to a patient's gradient may differ, relative to its length."""
        return TOLERANCE.get((self.name, self.precision), TOLERANCE_BF16)

    @property
    def layouts(self) -> tuple[Device, ...]:
        """The same with either order of a convolution's memory where channels may come last: which is faster is measured."""
        return (self, Device(self.name, self.precision)) if self.channels_last else (self,)

    def copy_of(self, model: nn.Module) -> nn.Module:
        """The model here, its weights in memory of their own."""
        import torch

        self._prepare()
        found = copy.deepcopy(model).to(self.name)
        if self.channels_last:
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            for value in found.parameters():
                if value.dim() in formats:
                    value.data = value.data.contiguous(memory_format=formats[value.dim()])
        return found

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Around a forward pass and nothing else; a backward pass follows the types of its forward pass."""
        import torch

        return torch.autocast(self.name, torch.bfloat16) if self.precision == BF16 else contextlib.nullcontext()

    def widened(self, outputs: Tensor) -> Tensor:
        """Outputs of a pass as float32: losses are never taken of less."""
        return outputs.float() if self.precision == BF16 else outputs

    def _prepare(self) -> None:
        """float32 is float32, and the same shapes take the same kernels. For the whole process: nothing else in it uses one."""
        import torch

        if self.name == CUDA:
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True


PROCESSOR: Final = Device()


@dataclass(frozen=True)
class DeviceChoice:
    """What site.yaml says of it. `ConfigError` for a word that is none of these."""

    device: str = AUTO
    precision: str = AUTO

    def __post_init__(self) -> None:
        for key, value, known in (("device", self.device, DEVICES), ("precision", self.precision, PRECISIONS)):
            if value not in known:
                raise ConfigError(f"{key} is {value!r}: one of {', '.join(known)}")

    def for_model(self, model: nn.Module) -> Device:
        """Where `model` is computed. Raises `ConfigError` where the machine has not what is asked for.

        `auto` takes an accelerator for models with convolutions alone: others take milliseconds on a processor, where a
        patient's bits are those that the tests of `client.engines` are about.
        """
        import torch

        convolving = any(isinstance(layer, torch.nn.modules.conv._ConvNd) for layer in model.modules())
        name = CUDA if (convolving or self.device == CUDA) and self._accelerated() else CPU
        return Device(name, self._precision(name, convolving=convolving), channels_last=name == CUDA and convolving)

    def told(self) -> str:
        """For people: what is there and what of it will be used. Raises `ConfigError` like `for_model`."""
        import torch

        if not self._accelerated():
            return "processors" + (f": {accelerator_obstacle()}" if self.device == AUTO else "") + f", {self._precision(CPU)}"
        free, total = torch.cuda.mem_get_info()
        what = "models with convolutions" if self.device == AUTO else "all models"
        return f"{torch.cuda.get_device_name()} for {what}, {self._precision(CUDA)}, {free // 2**20} of {total // 2**20} MiB free"

    def _accelerated(self) -> bool:
        if self.device == CPU:
            return False
        obstacle = accelerator_obstacle()
        if obstacle and self.device == CUDA:
            raise ConfigError(f"site.yaml asks for device cuda, and {obstacle}; or set `device: auto`, or `cpu`")
        return not obstacle

    def _precision(self, name: str, *, convolving: bool = True) -> str:
        """bf16 where it is asked for, or where an accelerator computes it natively and layers are large enough to gain by it."""
        import torch

        native = name == CPU or torch.cuda.is_bf16_supported(including_emulation=False)
        if self.precision == BF16 and not native:
            raise ConfigError(
                f"site.yaml asks for precision bf16, which {torch.cuda.get_device_name()} does not compute (capability 8.0 and "
                "newer do): set `precision: auto`, or `fp32`"
            )
        return (BF16 if native and convolving and name == CUDA else FP32) if self.precision == AUTO else self.precision


PROCESSORS: Final = DeviceChoice(CPU, FP32)


def accelerator_obstacle() -> str:
    """Why no accelerator can be used here and what to do about it; empty if one can."""
    import torch

    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is built for processors alone: install a build for CUDA"
    if not torch.cuda.is_available():
        return "torch sees no accelerator: check driver, container runtime and CUDA_VISIBLE_DEVICES"
    try:
        if (found := torch.cuda.get_device_capability()) < LEAST_CAPABILITY:
            least = ".".join(map(str, LEAST_CAPABILITY))
            return f"{torch.cuda.get_device_name()} has compute capability {found[0]}.{found[1]}, at least {least} is needed"
        torch.cuda.mem_get_info()  # the first call that takes room there: it fails where another program has all of it
    except RuntimeError as error:
        said = str(error).partition("\n")[0]  # the rest tells how to debug kernels
        return f"the accelerator does not answer ({said}): end other programs that use it, or check its driver"
    return ""


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch failed for want of memory, on whatever device."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_ROOM)


def release_memory() -> None:
    """Gives back what an accelerator's allocator holds unused: a failed pass leaves it in pieces of the wrong size."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
