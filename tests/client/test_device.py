"""Where models are computed: what site.yaml may say, what a machine without an accelerator answers, what one with it is given."""

import multiprocessing
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from guards_in_process import SITES, TASK_NAME, Consortium
from torch import nn

from client import trainer_process
from client.cli import main
from client.config import device_choice, load_config, write_config
from client.daemon import data_source
from client.device import BF16, CPU, CUDA, FP32, PROCESSOR, PROCESSORS, Device, DeviceChoice, out_of_memory
from client.errors import ConfigError, TrainerError
from client.home import Home
from client.job import Job
from client.patients import DataSource
from client.trainer_process import TrainerProcess
from tasks.imaging.unet import build

TABLE = "site: a\ntask: cis_conversion\ndata: data\n"
IMAGES = build("unet3d", {"widths": "4-8"}, 2)
TABLES = nn.Linear(3, 1)


def home_saying(folder: Path, lines: str) -> Home:
    home = Home(folder)
    home.config.write_text(TABLE + lines)
    return home


class Machine:
    """What torch says of a machine's accelerator. Not the accelerator: the choice is made before anything runs on it."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self._patched = patched

    def has(self, capability: tuple[int, int], *, bf16: bool) -> None:
        self._patched.setattr(torch.backends.cuda, "is_built", lambda: True)
        self._patched.setattr(torch.cuda, "is_available", lambda: True)
        self._patched.setattr(torch.cuda, "get_device_capability", lambda: capability)
        self._patched.setattr(torch.cuda, "get_device_name", lambda: "Card 1")
        self._patched.setattr(torch.cuda, "mem_get_info", lambda: (2**30, 2**33))
        self._patched.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: bf16)

    def is_full(self) -> None:
        """Torch sees the accelerator, and another program holds all of its memory, or has it for itself."""

        def refuse() -> None:
            raise torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")

        self.has((9, 0), bf16=True)
        self._patched.setattr(torch.cuda, "mem_get_info", refuse)

    def has_none(self) -> None:
        self._patched.setattr(torch.backends.cuda, "is_built", lambda: True)
        self._patched.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


# -- site.yaml -------------------------------------------------------------------------------------------------------------------


def test_a_site_that_says_nothing_takes_what_is_there(tmp_path: Path) -> None:
    assert load_config(home_saying(tmp_path, "")).computed_on == DeviceChoice("auto", "auto")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_every_word_is_read_and_written_again(tmp_path: Path, device: str, precision: str) -> None:
    home = home_saying(tmp_path, f"device: {device}\nprecision: {precision}\n")
    write_config(home, load_config(home))
    assert load_config(home).computed_on == DeviceChoice(device, precision)
    assert device_choice(home) == DeviceChoice(device, precision)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("device: gpu", "device is 'gpu': one of auto, cpu, cuda"),
        ("device: CUDA", "device is 'CUDA'"),
        ("device: 0", "device is '0'"),
        ("device: cuda:1", "device is 'cuda:1'"),
        ("device: ''", "device is ''"),
        ("device:", "device"),
        ("precision: fp16", "precision is 'fp16': one of auto, fp32, bf16"),
        ("precision: 32", "precision is '32'"),
        ("precision: [bf16]", "precision"),
    ],
)
def test_another_word_is_refused_with_file_key_value_and_what_there_is(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(home_saying(tmp_path, line + "\n"))
    assert str(tmp_path) in str(refused.value)
    assert words in str(refused.value)


def test_a_command_that_needs_no_site_takes_what_is_there(tmp_path: Path) -> None:
    assert device_choice(Home(tmp_path / "none")) == DeviceChoice()


# -- the choice ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capability", [None, (6, 1), (7, 0)], ids=["none", "6.1", "7.0"])
def test_without_an_accelerator_that_torch_serves_everything_is_computed_as_ever(
    machine: Machine, capability: tuple[int, int] | None
) -> None:
    machine.has(capability, bf16=False) if capability else machine.has_none()
    for model in (IMAGES, TABLES):
        assert DeviceChoice().for_model(model) == PROCESSOR
        with pytest.raises(ConfigError, match=r"asks for device cuda, and .*; or set `device: auto`, or `cpu`"):
            DeviceChoice(CUDA).for_model(model)
    assert DeviceChoice().told().startswith("processors: ")
    assert ("compute capability" if capability else "CUDA_VISIBLE_DEVICES") in DeviceChoice().told()
    with pytest.raises(ConfigError):
        DeviceChoice(CUDA).told()


def test_an_accelerator_that_another_program_fills_stops_nobody_who_did_not_ask_for_it(machine: Machine) -> None:
    machine.is_full()
    words = r"the accelerator does not answer \(CUDA error: out of memory\): end other programs that use it"
    assert re.match(f"processors: {words}", DeviceChoice().told())
    assert DeviceChoice().for_model(IMAGES) == PROCESSOR
    for asked in (DeviceChoice(CUDA).told, lambda: DeviceChoice(CUDA).for_model(TABLES)):
        with pytest.raises(ConfigError, match=f"asks for device cuda, and {words}"):
            asked()


def test_models_that_stay_on_processors_take_no_room_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr(torch.cuda, "is_available", never)
    monkeypatch.setattr(torch.backends.cuda, "is_built", never)
    assert DeviceChoice().for_model(TABLES) == PROCESSOR


def test_a_build_of_torch_for_processors_says_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(ConfigError, match="built for processors alone: install a build for CUDA"):
        DeviceChoice(CUDA).told()
    assert DeviceChoice(CPU).told() == "processors, fp32"


def test_an_accelerator_computes_convolutions_in_bf16_with_channels_last(machine: Machine) -> None:
    machine.has((9, 0), bf16=True)
    assert DeviceChoice().for_model(IMAGES) == Device(CUDA, BF16, channels_last=True)
    assert DeviceChoice(CUDA, FP32).for_model(IMAGES) == Device(CUDA, FP32, channels_last=True)
    assert DeviceChoice(CPU).for_model(IMAGES) == PROCESSOR
    assert DeviceChoice().told() == "Card 1 for models with convolutions, bf16, 1024 of 8192 MiB free"


def test_models_of_tables_go_there_only_if_asked_and_stay_in_float32(machine: Machine) -> None:
    machine.has((9, 0), bf16=True)
    assert DeviceChoice().for_model(TABLES) == PROCESSOR
    assert DeviceChoice(CUDA).for_model(TABLES) == Device(CUDA, FP32)
    assert DeviceChoice(CUDA, BF16).for_model(TABLES) == Device(CUDA, BF16)


def test_an_accelerator_that_only_imitates_bf16_computes_in_float32(machine: Machine) -> None:
    machine.has((7, 5), bf16=False)
    assert DeviceChoice().for_model(IMAGES) == Device(CUDA, FP32, channels_last=True)
    with pytest.raises(ConfigError, match=r"precision bf16, which Card 1 does not compute.*set `precision: auto`, or `fp32`"):
        DeviceChoice(CUDA, BF16).for_model(IMAGES)


def test_processors_compute_in_bf16_only_where_a_site_asks_for_it(machine: Machine) -> None:
    machine.has_none()
    assert DeviceChoice(CPU, BF16).for_model(IMAGES) == Device(CPU, BF16)
    assert PROCESSORS.for_model(IMAGES) == DeviceChoice().for_model(IMAGES) == PROCESSOR


def test_want_of_memory_is_told_from_other_failures() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(10**15)
    assert out_of_memory(failed.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    with pytest.raises(RuntimeError) as failed:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert not out_of_memory(failed.value)


# -- said at start ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def asking(consortium: Consortium) -> Iterator[TrainerProcess]:
    trainer = TrainerProcess(
        data_source(
            consortium.roster, folder=consortium.data / SITES[0], tasks=(TASK_NAME,), key=bytes(32), device=DeviceChoice(CUDA)
        ),
        lambda line: None,
    )
    yield trainer
    trainer.stop()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
def test_a_guard_that_is_to_use_an_accelerator_does_not_start_without_one(asking: TrainerProcess) -> None:
    with pytest.raises(TrainerError, match=r"asks for device cuda, and .*: "):
        asking.start()


class Lost:
    """Patients whose computation breaks the device."""

    def __init__(self, source: DataSource) -> None:
        self.source = source

    def trainer(self, task: str) -> None:
        return None

    def run(self, job: Job) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_a_process_whose_device_broke_ends_so_that_the_next_round_has_a_new_one(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After such an error every later call fails in that process, whatever it asks for."""
    monkeypatch.setattr(trainer_process, "Patients", Lost)
    before = signal.getsignal(signal.SIGINT)
    here, there = multiprocessing.Pipe()
    for number in (1, 2):
        here.send(Job(consortium.plan(), SITES[0], number, "train", b""))
        here.send_bytes(b"model")
    try:
        trainer_process._serve(there, data_source(consortium.roster, folder=consortium.data / SITES[0], tasks=(TASK_NAME,)))
    finally:
        signal.signal(signal.SIGINT, before)
    here.recv(), here.recv_bytes()  # that it is ready
    assert here.recv().startswith("AcceleratorError at test_device.py")
    assert not here.poll(), "the second job is not answered"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
def test_check_says_that_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home_saying(tmp_path, "device: cuda\n")
    assert main(["--home", str(tmp_path), "check"]) == 1
    assert "asks for device cuda" in capsys.readouterr().out.replace("\n", " ")
