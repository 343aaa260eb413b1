import pytest

from experiments.bench import memory as module
from experiments.bench.memory import STATUS, _in_a_process, _peak, memory, peak_of

needs_proc = pytest.mark.skipif(not STATUS.exists(), reason="Linux only")


def test_the_peak_is_read():
    assert _peak("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\nVmRSS: 1 kB\n") == 2.0
    with pytest.raises(ValueError, match="expected VmHWM"):
        _peak("nothing")


def test_the_row(monkeypatch):
    """Peaks beyond the idle process, medians over repeats."""
    peaks = iter([100, 110, 130, 140, 101, 111, 131, 171, 102, 112, 132, 142])
    jobs = []

    def pretend(job):
        jobs.append(job)
        return float(next(peaks))

    monkeypatch.setattr(module, "_in_a_process", pretend)
    row = memory("a name", repeats=3)
    assert jobs == ["idle", "bare", str(module.FEW), str(module.MANY)] * 3
    assert row.ours == 142 - 101
    assert row.baseline == pytest.approx(32 * 3 * 224 * 224 * 4 / 2**20 + 50)
    assert (row.unit, row.n, row.target) == ("MiB", 3, 1.0)


@needs_proc
@pytest.mark.integration
def test_a_process_of_its_own_reports_its_peak():
    assert 50 < _in_a_process("idle") < 5000


@needs_proc
@pytest.mark.parametrize("job", ["idle", "bare", "1"])
def test_every_job_runs(job, monkeypatch):
    monkeypatch.setattr(module, "IMAGE_SIZE", 28)
    assert peak_of(job) > 0
