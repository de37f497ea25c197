"""Checkpoints: both formats round trip, an interrupted save leaves the last one whole, damage is named."""

import sys

import numpy as np
import pytest
import safetensors.numpy

from fastconv import checkpoint

pytestmark = pytest.mark.isa_independent

STATE = {
    "features.0.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "features.0.bias": np.array([1.5, np.nan, np.inf]),
    "bn.num_batches_tracked": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
    "mask": np.array([True, False]),
    "file": np.ones(2, np.float32),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "strided": np.arange(10.0)[::-3],
    "byte-swapped": np.arange(3, dtype=">f4"),
}
SUFFIXES = [".npz", ".safetensors"]


def _assert_same(loaded, state):
    assert sorted(loaded) == sorted(state)
    for key, value in state.items():
        assert loaded[key].shape == value.shape
        assert loaded[key].dtype == value.dtype.newbyteorder("=")
        np.testing.assert_array_equal(loaded[key], value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    checkpoint.save(path, STATE)
    _assert_same(checkpoint.load(str(path)), STATE)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_state_round_trips(tmp_path, suffix):
    checkpoint.save(tmp_path / f"none{suffix}", {})
    assert checkpoint.load(tmp_path / f"none{suffix}") == {}


def test_others_read_what_we_write(tmp_path):
    checkpoint.save(tmp_path / "a.npz", STATE)
    with np.load(tmp_path / "a.npz") as archive:
        _assert_same({key: archive[key] for key in archive.files}, STATE)
    checkpoint.save(tmp_path / "a.safetensors", STATE)
    _assert_same(safetensors.numpy.load_file(tmp_path / "a.safetensors"), STATE)


def test_we_read_what_others_write(tmp_path):
    plain = {"w": STATE["features.0.weight"], "n": STATE["bn.num_batches_tracked"]}
    np.savez_compressed(tmp_path / "b.npz", **plain)
    _assert_same(checkpoint.load(tmp_path / "b.npz"), plain)
    safetensors.numpy.save_file(plain, tmp_path / "b.safetensors")
    _assert_same(checkpoint.load(tmp_path / "b.safetensors"), plain)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_an_interrupted_save_keeps_the_last_checkpoint(tmp_path, monkeypatch, suffix, interruption, moment):
    path = tmp_path / f"model{suffix}"
    checkpoint.save(path, {"w": np.zeros(3)})

    def interrupt(*_):
        raise interruption

    monkeypatch.setattr(checkpoint.os, moment, interrupt)
    with pytest.raises(interruption):
        checkpoint.save(path, {"w": np.ones(3)})
    monkeypatch.undo()
    np.testing.assert_array_equal(checkpoint.load(path)["w"], 0)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_save_interrupted_while_writing_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    checkpoint.save(path, {"a": np.zeros(3), "b": np.zeros(3)})
    write, written = np.lib.format.write_array, []

    def write_one(*arguments, **options):
        if written:
            raise KeyboardInterrupt
        written.append(True)
        write(*arguments, **options)

    monkeypatch.setattr(np.lib.format, "write_array", write_one)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"a": np.ones(3), "b": np.ones(3)})
    monkeypatch.undo()
    _assert_same(checkpoint.load(path), {"a": np.zeros(3), "b": np.zeros(3)})
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("part", [0, 0.3, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_named(tmp_path, suffix, part):
    path = tmp_path / f"model{suffix}"
    checkpoint.save(path, {"w": np.arange(1000.0), "b": np.arange(1000.0)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ValueError, match=rf"model\{suffix}: not a whole"):
        checkpoint.load(path)


def test_a_damaged_array_is_named(tmp_path):
    path = tmp_path / "model.npz"
    checkpoint.save(path, {"w": np.arange(1000.0)})
    content = bytearray(path.read_bytes())
    content[4000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.npz: not a whole"):
        checkpoint.load(path)


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, w=np.array([{}], object))
    with pytest.raises(ValueError, match=r"model\.npz: not a whole"):
        checkpoint.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match=rf"none\{suffix}: no such checkpoint"):
        checkpoint.load(tmp_path / f"none{suffix}")


def test_another_suffix_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"\.npz, \.safetensors, got '\.pt'"):
        checkpoint.save(tmp_path / "model.pt", {})
    with pytest.raises(ValueError, match=r"got '\.pt'"):
        checkpoint.load(tmp_path / "model.pt")


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([None]), np.array([1j])])
def test_other_values_are_named(tmp_path, value):
    with pytest.raises(TypeError, match="'w' must be an array of numbers"):
        checkpoint.save(tmp_path / "model.npz", {"w": value})
    assert not list(tmp_path.iterdir())


def test_a_missing_safetensors_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ModuleNotFoundError, match=r"fastconv\[safetensors\]"):
        checkpoint.save(tmp_path / "model.safetensors", {})
    assert not list(tmp_path.iterdir())
