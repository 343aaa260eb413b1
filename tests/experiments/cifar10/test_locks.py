import json
import os
import platform
import subprocess
import sys
import time

from experiments.cifar10.locks import SILENT, claimed, is_claimed


def test_only_one_holds_it_and_it_is_free_afterwards(tmp_path):
    file = tmp_path / "claims/stage.json"
    with claimed(file) as first, claimed(file) as second:
        assert first
        assert not second
        assert is_claimed(file)
    assert not file.exists()


def test_an_error_frees_it(tmp_path):
    file = tmp_path / "stage.json"
    try:
        with claimed(file):
            raise ValueError
    except ValueError:
        pass
    assert not file.exists()


def write(file, host, pid, age=0.0):
    file.write_text(json.dumps({"host": host, "pid": pid}))
    os.utime(file, (time.time() - age,) * 2)


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    file = tmp_path / "stage.json"
    write(file, platform.node(), gone.pid)
    assert not is_claimed(file)
    with claimed(file) as ours:
        assert ours


def test_another_machine_is_believed_until_it_is_silent(tmp_path):
    file = tmp_path / "stage.json"
    write(file, "elsewhere", 1)
    with claimed(file) as ours:
        assert not ours
    write(file, "elsewhere", 1, age=SILENT + 1)
    with claimed(file) as ours:
        assert ours
