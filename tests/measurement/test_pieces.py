import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from processes import wait_for
from vestige.errors import StoreError
from vestige.measurement.ablation.pieces import FolderPieces, MemoryPieces

KEY = {"weights": "abc", "tile": 8}
NAMES = [f"exact/zero/layer{i}.0/block-{j:04d}" for i in range(3) for j in range(2)]


def numbers_of(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    loss = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    loss[0, 0], loss[1, 1] = float("nan"), -0.0
    return {
        "loss": loss,
        "row": loss[2],  # of the same memory
        "counts": torch.randint(-(2**62), 2**62, (7,), generator=generator),
        "none": torch.empty(0, 4),
        "flag": torch.tensor([True, False]),
    }


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].numpy().tobytes() == b[k].numpy().tobytes()
        for k in a
    )


def forbidden(name: str) -> dict[str, torch.Tensor]:
    raise AssertionError(f"{name} was made again")


@pytest.mark.parametrize("kept", [False, True])
def test_pieces_come_in_order_bit_for_bit(tmp_path: Path, kept: bool):
    pieces = FolderPieces(tmp_path / "p", KEY) if kept else MemoryPieces()
    found = list(pieces.all(NAMES, numbers_of))
    assert all(same_bits(piece, numbers_of(name)) for name, piece in zip(NAMES, found, strict=True))
    assert pieces.done(NAMES) == NAMES


def test_what_is_there_is_not_made_again_and_what_is_damaged_is(tmp_path: Path):
    list(FolderPieces(tmp_path, KEY).all(NAMES, numbers_of))
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert [f.relative_to(tmp_path).as_posix() for f in files] == [f"{name}.safetensors" for name in sorted(NAMES)]
    found = list(FolderPieces(tmp_path, KEY).all(NAMES[::-1], forbidden))
    assert all(same_bits(piece, numbers_of(name)) for name, piece in zip(NAMES[::-1], found, strict=True))
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[:100])
    files[4].unlink()
    left = files[4].with_name(f".{files[4].name}.99.tmp")
    left.write_bytes(b"half")
    made = []
    found = list(FolderPieces(tmp_path, KEY).all(NAMES, lambda name: made.append(name) or numbers_of(name)))
    assert sorted(made) == [sorted(NAMES)[2], sorted(NAMES)[4]]
    assert files[2].read_bytes() == whole
    assert not left.exists()


def test_a_name_is_a_file_whatever_stands_in_it(tmp_path: Path):
    name = "exact/zero/a:b é?*/block-0000"
    list(FolderPieces(tmp_path, KEY).all([name], numbers_of))
    assert FolderPieces(tmp_path, KEY).done([name]) == [name]


def test_a_folder_of_another_key_is_refused(tmp_path: Path):
    FolderPieces(tmp_path, {**KEY, "data": {"n": 10}})
    with pytest.raises(StoreError) as caught:
        FolderPieces(tmp_path, {"weights": "other", "tile": 8, "data": {"n": 11}})
    assert str(caught.value) == (
        f"going on in {tmp_path}: its pieces were made by other settings: weights is other, was abc; "
        "data.n is 11, was 10. Give another folder, or delete this one."
    )


def test_a_piece_copied_from_another_folder_is_made_again(tmp_path: Path):
    list(FolderPieces(tmp_path / "a", {"weights": "other"}).all(NAMES[:1], numbers_of))
    pieces = FolderPieces(tmp_path / "b", KEY)
    target = tmp_path / "b" / f"{NAMES[0]}.safetensors"
    target.parent.mkdir(parents=True)
    target.write_bytes((tmp_path / "a" / f"{NAMES[0]}.safetensors").read_bytes())
    made = []
    list(pieces.all(NAMES[:1], lambda name: made.append(name) or numbers_of(name)))
    assert made == NAMES[:1]


def share(folder: Path, log: Path) -> None:
    def make(name: str) -> dict[str, torch.Tensor]:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {name}\n")
        time.sleep(0.05)
        return numbers_of(name)

    found = list(FolderPieces(folder, KEY).all(NAMES, make))
    assert all(same_bits(piece, numbers_of(name)) for name, piece in zip(NAMES, found, strict=True))


def test_processes_share_the_work_and_one_that_is_killed_loses_only_its_piece(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    logs = [tmp_path / f"log-{i}" for i in range(3)]
    workers = [context.Process(target=share, args=(tmp_path / "p", log)) for log in logs]
    workers[0].start()
    assert wait_for(lambda: logs[0].exists() and logs[0].read_text() != "", 60)
    for worker in workers[1:]:
        worker.start()
    assert workers[0].pid
    os.kill(workers[0].pid, signal.SIGKILL)
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL, 0, 0]
    made = [line.split()[1] for log in logs for line in log.read_text().splitlines()]
    assert set(made) == set(NAMES)
    assert len(made) <= len(NAMES) + 1
    assert all(len(log.read_text().splitlines()) < len(NAMES) for log in logs)
    assert not list(tmp_path.rglob("*.tmp"))
